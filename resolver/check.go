package resolver

// MaxServices bounds the names in one announcement.
const MaxServices = 1 << 17

// Check reports whether next may follow cur (nil: no record), as an error that is [ErrRefused] or [ErrInvalid]. Versions
// are not its business. TODO(resolver): written by the resolver's author, see PROTOCOL 1.2.
func Check(cur *Record, next Record) error { return nil }
