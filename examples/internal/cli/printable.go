package cli

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable escapes foreign text for a terminal. The result is one line. Control characters, and with them terminal escape
// sequences, become Unicode control pictures; characters that change the writing direction or are invisible become <U+XXXX>.
// Joiners are kept, because some scripts and emoji need them.
func Printable(s string) string {
	if !strings.ContainsFunc(s, Harmful) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !Harmful(r):
			b.WriteRune(r) // invalid bytes have become U+FFFD
		case r == '\t':
			b.WriteByte(' ')
		case r < 0x20:
			b.WriteRune(0x2400 + r)
		case r == 0x7f:
			b.WriteRune(0x2421)
		default:
			fmt.Fprintf(&b, "<%U>", r)
		}
	}
	return b.String()
}

// Harmful reports whether r affects a terminal other than by displaying a character.
func Harmful(r rune) bool {
	switch {
	case r < 0x7f:
		return r < 0x20
	case r == 0x200c || r == 0x200d: // the joiners
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs,
		unicode.Noncharacter_Code_Point)
}

// Plural formats a number with a noun in singular or plural.
func Plural[N int | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
