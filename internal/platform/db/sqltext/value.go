package sqltext

import (
	"database/sql/driver"
	"reflect"
	"time"

	"levee"
)

// Value turns what rooms hand over into what drivers take. Named integer types (levee.OrderID) become int64.
func Value(v any) (driver.Value, error) {
	switch x := v.(type) {
	case int64:
		return v, nil
	case string:
		return v, nil
	case int:
		return int64(x), nil
	case nil:
		return nil, nil
	case []byte:
		return v, nil
	case bool:
		if x {
			return int64(1), nil
		}
		return int64(0), nil
	case float64:
		return v, nil
	case time.Time:
		return nil, levee.Invalid("value", "a time as int64 microseconds (UnixMicro), not time.Time", x)
	case driver.Valuer:
	default:
		if rv := reflect.ValueOf(v); rv.CanInt() {
			return rv.Int(), nil
		}
	}
	out, err := driver.DefaultParameterConverter.ConvertValue(v)
	if t, isTime := out.(time.Time); err == nil && isTime {
		return nil, levee.Invalid("value", "a time as int64 microseconds (UnixMicro), not time.Time", t)
	}
	return out, err
}
