//go:build levee_stdjson

package web

import "encoding/json"

func marshalJSON(v any) ([]byte, error)      { return json.Marshal(v) }
func unmarshalJSON(data []byte, v any) error { return json.Unmarshal(data, v) }
