package event

import "testing/fstest"

// testFS is the schema of what the tests' listeners write.
var testFS = fstest.MapFS{"schema/0001_effect.sql": {Data: []byte(effectSchema)}}
