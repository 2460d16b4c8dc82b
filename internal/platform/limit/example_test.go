package limit_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
)

// open makes limits in this process's memory. limit.OpenShared makes those that nodes share over Redis; they are used alike.
func open(rates map[string]string) *limit.Limits {
	o, err := obs.Open(obs.Config{Level: "error"}, log.Writer())
	if err != nil {
		log.Fatal(err)
	}
	limits, err := limit.Open(limit.Config{Rates: rates}, o)
	if err != nil {
		log.Fatal(err)
	}
	return limits
}

func ExampleLimits_Allow() {
	limits := open(map[string]string{"import": "2/day"})
	for range 3 {
		d := limits.Allow(context.Background(), limit.Import, "u7")
		fmt.Printf("%v %d %q\n", d.OK, d.Remaining, levee.CodeOf(d.Err()))
	}
	// Output:
	// true 1 ""
	// true 0 ""
	// false 0 "too_many_requests"
}

// A message to a telephone: the number's minute and day, the asker's address and the house's bill, all or none.
func ExampleLimits_AllowAll() {
	limits := open(map[string]string{"sms": "1/m", "sms_day": "5/day", "sms_address": "20/h", "sms_house": "1000/h"})
	who := limit.Caller{Account: "+861380000000", Address: netip.MustParseAddr("2001:db8::7")}
	asks := []limit.Ask{}
	for _, n := range []limit.Name{limit.SMS, limit.SMSDay, limit.SMSAddress, limit.SMSHouse} {
		asks = append(asks, limit.Ask{Name: n, Key: n.Key(who)})
	}
	fmt.Println(limits.AllowAll(context.Background(), asks...).OK())
	again := limits.AllowAll(context.Background(), asks...) // within the minute
	fmt.Println(again.Err())
	for i, d := range again {
		fmt.Println(asks[i].Name, d.OK, d.Remaining)
	}
	// Output:
	// true
	// too_many_requests: too many requests, ask again in 1m0s
	// sms false 0
	// sms_day true 4
	// sms_address true 18
	// sms_house true 999
}

// A sign-in that succeeded does not count.
func ExampleLimits_Refund() {
	limits := open(map[string]string{"sign_in_account": "2/h"})
	ctx := context.Background()
	for range 5 {
		fmt.Print(limits.Allow(ctx, limit.SignInAccount, "ann").OK, " ")
		limits.Refund(ctx, limit.SignInAccount, "ann")
	}
	// Output: true true true true true
}

// A rate changes under way; what was counted stays counted.
func ExampleLimits_Set() {
	limits := open(map[string]string{"import": "2/day"})
	ctx := context.Background()
	fmt.Print(limits.Allow(ctx, limit.Import, "u7").OK, limits.Allow(ctx, limit.Import, "u7").OK, limits.Allow(ctx, limit.Import, "u7").OK)
	r, err := limit.ParseRate("3/day")
	if err != nil {
		log.Fatal(err)
	}
	if err := limits.Set(map[limit.Name]limit.Rate{limit.Import: r}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("", limits.Allow(ctx, limit.Import, "u7").OK, limits.Allow(ctx, limit.Import, "u7").OK)
	// Output: true true false true false
}

func ExampleDecision_AppendState() {
	limits := open(map[string]string{"write": "20/s burst 40"})
	d := limits.Allow(context.Background(), limit.Write, "u7")
	fmt.Println("RateLimit-Policy:", limits.Policy(limit.Write))
	fmt.Println("RateLimit:", string(d.AppendState(nil, limit.Write)))
	// Output:
	// RateLimit-Policy: "write";q=40;w=2
	// RateLimit: "write";r=39;t=1
}

func ExampleParseRate() {
	for _, s := range []string{"5/day", "20/s", "5/15m", "10/s burst 20", "-1/s"} {
		r, err := limit.ParseRate(s)
		fmt.Printf("%v, exact %v, %q\n", r, r.Exact(), levee.CodeOf(err))
	}
	// Output:
	// 5/d, exact true, ""
	// 20/s, exact true, ""
	// 5/15m, exact true, ""
	// 10/s burst 20, exact false, ""
	// off, exact true, "invalid"
}
