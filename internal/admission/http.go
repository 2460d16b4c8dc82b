package admission

import (
	"context"
	"encoding/base64"
	"net/http"
	"strconv"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/web"
)

const (
	operators = levee.RoleOperator | levee.RoleAdministrator
	buyers    = levee.RoleCustomer | operators
	tag       = "admissions"
)

// Routes adds the room's operations to the server.
func (s *Service) Routes(srv *web.Server) {
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/sales/{sale}/admissions", ID: "admitBuyer", Tag: tag, Kept: Duty, Roles: buyers, Status: 201,
		Limit: limit.Admission, BodyMax: 4 << 10, Quiet: true, Errors: []int{202, 403, 404, 409, 410, 503},
		Summary: "Get an admission token for a sale, or a place in its line",
		Description: "201: admitted, with the token. 202: a place in line; ask for it at links.self after poll_after_ms. Repeating it is safe: an account has " +
			"one place. Ask again with the ticket when the place is not known any more (404). When the place was missed, this brings it to the head of the " +
			"line. 403 challenge_required: data.challenge must be solved first."}, s.postAdmission)
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/sales/{sale}/admissions/mine", ID: "getMyAdmission", Tag: tag, Kept: Duty, Roles: buyers, Limit: limit.Poll,
		Quiet: true, Errors: []int{404, 409, 410, 503}, Summary: "Where do I stand in the line of a sale?",
		Description: "Once the turn has come, the first look picks the token up: it lives from then on. Who does not look for a while (two minutes, as configured) has missed it."}, s.getMine)
	web.Add(srv, web.Route{Method: "DELETE", Path: "/v1/sales/{sale}/admissions/mine", ID: "leaveLine", Tag: tag, Kept: Duty, Roles: buyers, Status: 204,
		Limit: limit.Write, Errors: []int{404, 409, 410}, Summary: "Leave the line of a sale",
		Description: "A token that was picked up stays good until it runs out."}, s.deleteMine)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/sales/{sale}/challenges", ID: "askChallenge", Tag: tag, Kept: Duty, Roles: buyers, Status: 201,
		Limit: limit.Admission, BodyMax: 1 << 10, Quiet: true, Errors: []int{404, 409, 410, 422, 503}, Summary: "Get a challenge to prove that a person is there",
		Description: "work: find a decimal answer such that SHA-256(challenge + \".\" + answer) begins with bits zero bits. picture: the answer is the five " +
			"digits in it. Each is for one buyer and sale and one use, and good for five minutes."}, s.postChallenge)
	srv.Raw(web.Route{Method: "GET", Path: "/v1/sales/{sale}/admissions/events", ID: "watchLine", Tag: tag, Timeout: -1, Quiet: true,
		Summary: "Watch the line of a sale (server-sent events)", Description: "Event line, at most once a second: served (the number up to which " +
			"people were admitted), waiting, per_second, open. Between polls, position is what the last poll said minus what served has moved since."},
		http.HandlerFunc(s.watchLine), web.RawDoc{Produces: []string{"text/event-stream"}, Responses: map[int]any{200: nil}})
}

type salePath struct {
	Sale string `path:"sale" maxLength:"64" doc:"The sale's id"`
}

type proofBody struct {
	Challenge string `json:"challenge" minLength:"1" maxLength:"200" doc:"As it was given"`
	Answer    string `json:"answer" minLength:"1" maxLength:"20" doc:"Decimal digits"`
}

type admissionRequest struct {
	Ticket string     `json:"ticket,omitempty" maxLength:"200" doc:"Of a place that this account had before"`
	Proof  *proofBody `json:"proof,omitempty" doc:"That a challenge was solved"`
}

type spanView struct {
	Low  int64 `json:"low"`
	High int64 `json:"high"`
}

// placeView is a place as the world sees it. Where there is no waiting room it has status, token and expires_at alone.
type placeView struct {
	Status    string     `json:"status" enum:"waiting,admitted,missed" doc:"admitted: token is there. missed: the turn came and nobody asked for it in time; post again to be next"`
	Token     string     `json:"token,omitempty" doc:"Send it as Levee-Admission with a purchase"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"Of the token"`
	TurnUntil *time.Time `json:"turn_until,omitempty" doc:"Until when a missed turn is kept"`
	Ticket    string     `json:"ticket,omitempty" doc:"Keep it; it restores the place after a restart or on another device"`
	Number    *uint32    `json:"number" doc:"The place's number; null before it has one"`
	Position  *int       `json:"position" doc:"People ahead, and one; null when not known or not waiting"`
	Waiting   int        `json:"waiting" doc:"People in line"`
	PerSecond float64    `json:"per_second" doc:"Admissions a second, measured over the last 10 s"`
	Estimate  *spanView  `json:"estimate_seconds,omitempty" doc:"How long it may take, at the pace as measured; absent when nobody is being admitted"`
	OpensAt   time.Time  `json:"opens_at"`
	PollAfter int64      `json:"poll_after_ms,omitempty" doc:"Ask again after this time"`
	Links     placeLinks `json:"links"`
}

type placeLinks struct {
	Self      string `json:"self"`
	Events    string `json:"events"`
	Purchases string `json:"purchases"`
}

func viewPlace(public string, p Place) placeView {
	self := "/v1/sales/" + public
	v := placeView{Status: string(p.Status), Token: p.Token, Ticket: p.Ticket, Waiting: p.Waiting, PerSecond: p.PerSecond, OpensAt: p.OpensAt,
		PollAfter: p.PollAfter.Milliseconds(),
		Links:     placeLinks{Self: self + "/admissions/mine", Events: self + "/admissions/events", Purchases: self + "/purchases"}}
	if !p.ExpiresAt.IsZero() {
		v.ExpiresAt = &p.ExpiresAt
	}
	if !p.TurnUntil.IsZero() {
		v.TurnUntil = &p.TurnUntil
	}
	if p.Number != 0 {
		v.Number = &p.Number
	}
	if p.Position != 0 {
		v.Position = &p.Position
	}
	if p.High > 0 {
		v.Estimate = &spanView{Low: int64(p.Low / time.Second), High: int64(p.High / time.Second)}
	}
	return v
}

type placeOut struct {
	Status     int
	Location   string `header:"Location"`
	RetryAfter string `header:"Retry-After"`
	Body       placeView
}

func (s *Service) postAdmission(ctx context.Context, in *struct {
	Sale string `path:"sale" maxLength:"64" doc:"The sale's id"`
	Body *admissionRequest
}) (*placeOut, error) {
	v := Visit{Address: web.ClientIP(ctx)}
	if in.Body != nil {
		v.Ticket = in.Body.Ticket
		if in.Body.Proof != nil {
			v.Challenge, v.Answer = in.Body.Proof.Challenge, in.Body.Proof.Answer
		}
	}
	p, err := s.Enter(ctx, in.Sale, levee.ActorFrom(ctx), v)
	if err != nil {
		return nil, err
	}
	out := &placeOut{Status: http.StatusCreated, Location: "/v1/sales/" + in.Sale + "/admissions/mine", Body: viewPlace(in.Sale, p)}
	if p.Token == "" {
		out.Status = http.StatusAccepted
		out.RetryAfter = strconv.FormatInt(int64((p.PollAfter+time.Second-1)/time.Second), 10)
	}
	return out, nil
}

func (s *Service) getMine(ctx context.Context, in *salePath) (*struct{ Body placeView }, error) {
	p, err := s.Mine(in.Sale, levee.ActorFrom(ctx))
	if err != nil {
		return nil, err
	}
	return &struct{ Body placeView }{viewPlace(in.Sale, p)}, nil
}

func (s *Service) deleteMine(ctx context.Context, in *salePath) (*struct{}, error) {
	return nil, s.Leave(in.Sale, levee.ActorFrom(ctx))
}

type challengeRequest struct {
	Kind string `json:"kind,omitempty" enum:"work,picture" doc:"The sale's own if left out; work is there beside pictures for people who cannot see them"`
}

type challengeView struct {
	Kind      string    `json:"kind" enum:"work,picture"`
	Challenge string    `json:"challenge" doc:"Opaque; send it back with the answer"`
	Bits      int32     `json:"bits,omitempty" doc:"Of work: leading zero bits of SHA-256(challenge + \".\" + answer)"`
	Picture   string    `json:"picture,omitempty" doc:"A data: URL of a PNG with five digits"`
	ExpiresAt time.Time `json:"expires_at"`
	Instead   string    `json:"instead,omitempty" enum:"work" doc:"Another kind that may be asked for"`
}

func viewChallenge(c Challenge) challengeView {
	v := challengeView{Kind: c.Kind, Challenge: c.Text, Bits: c.Bits, ExpiresAt: c.ExpiresAt}
	if c.Kind == BrakePicture {
		v.Picture = "data:image/png;base64," + base64.StdEncoding.EncodeToString(c.Picture)
		v.Instead = BrakeWork
	}
	return v
}

func (s *Service) postChallenge(ctx context.Context, in *struct {
	Sale string `path:"sale" maxLength:"64" doc:"The sale's id"`
	Body *challengeRequest
}) (*struct{ Body challengeView }, error) {
	kind := ""
	if in.Body != nil {
		kind = in.Body.Kind
	}
	c, err := s.Challenge(ctx, in.Sale, levee.ActorFrom(ctx), kind)
	if err != nil {
		return nil, err
	}
	return &struct{ Body challengeView }{viewChallenge(c)}, nil
}

func (s *Service) watchLine(w http.ResponseWriter, r *http.Request) {
	public := r.PathValue("sale")
	if (*s.rooms.Load())[public] == nil {
		web.WriteError(w, r, errNoSale)
		return
	}
	s.Push.ServeSSE(w, r, topicOf(public))
}
