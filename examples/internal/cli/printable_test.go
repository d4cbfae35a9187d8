package cli

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestPrintable(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"plain", "Grüße, 世界 🙂!", "Grüße, 世界 🙂!"},
		{"escape sequence", "\x1b[2Jgone", "␛[2Jgone"},
		{"escape sequence, one character", "\u009b2Jgone", "<U+009B>2Jgone"},
		{"title sequence", "\x1b]0;root\x07", "␛]0;root␇"},
		{"line breaks", "a\r\nb", "a␍␊b"},
		{"more line breaks", "a\u2028b\u2029c\u0085", "a<U+2028>b<U+2029>c<U+0085>"},
		{"a tab", "a\tb", "a b"},
		{"delete", "a\x7f", "a␡"},
		{"direction override", "evil\u202etxt.exe", "evil<U+202E>txt.exe"},
		{"direction isolate", "\u2066a\u2069", "<U+2066>a<U+2069>"},
		{"invisible characters", "a\u200bb\ufeffc\u00ad", "a<U+200B>b<U+FEFF>c<U+00AD>"},
		{"tag characters", "a\U000e0041", "a<U+E0041>"},
		{"private use", "\ue000", "<U+E000>"},
		{"joiners are kept", "می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"},
		{"not UTF-8", "a\xff\xfeb", "a\ufffd\ufffdb"},
		{"empty", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.want, Printable(tc.in)) })
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[31m\u202e\xff\u009b")
	f.Fuzz(func(t *testing.T, s string) {
		p := Printable(s)
		require.True(t, utf8.ValidString(p))
		require.False(t, strings.ContainsFunc(p, unicode.IsControl), "%q", p)
		require.Equal(t, p, Printable(p))
	})
}
