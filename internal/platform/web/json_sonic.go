//go:build !levee_stdjson

package web

import "github.com/bytedance/sonic"

// The JSON of answers and bodies: sonic in the setting that equals encoding/json (HTML escaped, keys sorted, strings checked).
// The build tag levee_stdjson takes encoding/json itself; a fuzz target holds the two against each other.
func marshalJSON(v any) ([]byte, error)      { return sonic.ConfigStd.Marshal(v) }
func unmarshalJSON(data []byte, v any) error { return sonic.ConfigStd.Unmarshal(data, v) }
