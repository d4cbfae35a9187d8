package cli

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable makes a text of others harmless for a screen, on which it stays one line: control characters, and with them
// what terminals take for commands, become the pictures that Unicode has for them; characters that turn the direction of
// writing around or are not seen at all are written out. Joiners stay, since some scripts and emoji need them.
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

// Harmful reports whether r does something to a screen other than showing itself.
func Harmful(r rune) bool {
	switch {
	case r < 0x7f:
		return r < 0x20
	case r == 0x200c || r == 0x200d: // the joiners
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs, unicode.Noncharacter_Code_Point)
}
