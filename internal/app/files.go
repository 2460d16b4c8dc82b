package app

import (
	"context"
	"net/http"
	"time"

	"levee"
	"levee/internal/platform/blob"
	"levee/internal/platform/job"
	"levee/internal/platform/limit"
	"levee/internal/platform/schedule"
	"levee/internal/platform/web"
)

// fileTimeout is how long a file may be on its way to or from somebody: 20 MiB over a slow line.
const fileTimeout = 5 * time.Minute

// fileRoutes serves the links to files that the house itself passes on. They are there without a store, too, so that the API is the same
// everywhere: then no link leads anywhere.
func fileRoutes(cfg *Config, files *blob.Store) func(*web.Server) {
	answer := func(method func(*blob.Store, http.ResponseWriter, *http.Request)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if files == nil {
				web.WriteError(w, r, levee.E(levee.CodeNotFound, "there is no such file"))
				return
			}
			method(files, w, r)
		})
	}
	query := func(more ...string) map[string]string {
		q := map[string]string{"expires": "When the link ends, in Unix seconds", "signature": "What the house signed it with"}
		for i := 0; i < len(more); i += 2 {
			q[more[i]] = more[i+1]
		}
		return q
	}
	path := map[string]string{"use": "What the file is for", "id": "Its id"}
	return func(srv *web.Server) {
		srv.Raw(web.Route{Method: http.MethodGet, Path: blob.Path + "/{use}/{id}", ID: "getFile", Tag: "files", Summary: "A file's bytes, by a signed link",
			Description: "Links are made where files are shown, and end. The bytes of a key never change. Answers 304 to a fresh If-None-Match, and ranges.",
			Status:      200, Limit: limit.Read, Quiet: true, Timeout: fileTimeout, Errors: []int{206, 304, 403, 404, 410, 416, 503}},
			answer((*blob.Store).Get), web.RawDoc{Responses: map[int]any{200: []byte(nil)}, Produces: blob.Known(), Path: path, Query: query()})
		srv.Raw(web.Route{Method: http.MethodPut, Path: blob.Path + "/{use}/{id}", ID: "putFile", Tag: "files", Summary: "Send a file, by a signed link",
			Description: "The link is for one file of one size. What is sent counts for nothing until it is confirmed where the link came from.",
			Status:      204, Limit: limit.Write, BodyMax: cfg.Files.Most(), Timeout: fileTimeout, Errors: []int{400, 403, 404, 410, 413, 422, 503}},
			answer((*blob.Store).Take), web.RawDoc{Path: path, Query: query("size", "How many bytes the file has")})
	}
}

// sweepFiles removes what unfinished uploads have left.
func sweepFiles(files *blob.Store) schedule.Work {
	return schedule.Every("house.sweep_files", time.Hour, job.Options{}, func(ctx context.Context) error {
		_, err := files.Sweep(ctx)
		return err
	}).If(func(context.Context) (bool, error) { return files != nil, nil })
}
