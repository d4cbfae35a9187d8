package chatcore

import (
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

func TestNames(t *testing.T) {
	for _, tc := range []struct{ name, want string }{ // want "": rejected
		{"ann", "ann"},
		{"  ann \n", "ann"},
		{"Ann-Marie_2.0", "Ann-Marie_2.0"},
		{"7of9", "7of9"},
		{"José", "José"},
		{"Διογένης", "Διογένης"},
		{"Нина", "Нина"},
		{"Нина-7", "Нина-7"},
		{"שרה", "שרה"},
		{"سارة", "سارة"},
		{"ნინო", "ნინო"},
		{"さくら", "さくら"},
		{"山田タロー", "山田タロー"},
		{"민수", "민수"},
		{strings.Repeat("x", 32), strings.Repeat("x", 32)},
		{strings.Repeat("山", 32), strings.Repeat("山", 32)},

		{"", ""},
		{" \t", ""},
		{strings.Repeat("x", 33), ""},
		{strings.Repeat("x", 1<<20), ""},
		{"ann b", ""},
		{"-ann", ""},
		{".", ""},
		{"a\x00nn", ""},
		{"a\x1b[31mnn", ""},
		{"a\u202enn", ""},     // changes the writing direction
		{"a\u200bnn", ""},     // zero width
		{"Jose\u0301", ""},    // a combining accent
		{"a\xffnn", ""},       // not UTF-8
		{"\u0430nn", ""},      // Cyrillic a, Latin nn
		{"ann\u0660", ""},     // a digit of another script
		{"ann\U0001f600", ""}, // an emoji
		{"ａｎｎ", ""},           // fullwidth letters
		{"\ufb01nn", ""},      // a ligature
		{"@ann", ""},
		{"a/b", ""},
		{"a\nb", ""},
	} {
		got, _, err := checkName(tc.name, 32)
		if tc.want == "" {
			require.ErrorIs(t, err, ErrBadName, "%q", tc.name)
			require.Less(t, len(err.Error()), 1000)
			continue
		}
		require.NoError(t, err, "%q", tc.name)
		require.Equal(t, tc.want, got)
	}
}

func TestNamesThatLookAlike(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		same bool
	}{
		{"ann", "ANN", true},
		{"straße", "STRAẞE", true},
		{"mia", "mla", true},
		{"bot1", "botl", true},
		{"boo", "b00", true},
		{"сор", "cop", true}, // Cyrillic, Latin
		{"ВОТ", "BOT", true},
		{"Νίκος", "Nίκος", true},
		{"ΝΙΚΟ", "NIKO", true}, // Greek, Latin
		{"カロ", "力口", true},
		{"ann", "anne", false},
		{"jose", "josé", false},
		{"a-b", "a_b", false},
		{"user10", "user11", false},
		{"Нина", "Инна", false},
	} {
		require.Equal(t, tc.same, nameID(tc.a) == nameID(tc.b), "%q and %q", tc.a, tc.b)
	}
}

// Each table entry must be reachable: names are case-folded before the lookup.
func TestLookalikesAreFolded(t *testing.T) {
	for from, to := range lookalikes {
		for _, r := range []rune{from, unicode.ToLower(from), unicode.ToUpper(from)} {
			require.Equal(t, string(to), nameID(string(r)), "%q", r)
		}
		require.NotContains(t, lookalikes, to, "%q maps to a letter that is itself mapped", from)
		require.Equal(t, string(to), nameID(string(to)), "%q is not folded", to)
	}
	for i, s := range alphabet {
		require.LessOrEqual(t, s.lo, s.hi)
		require.NotEqual(t, noScript, s.script)
		for r := s.lo; r <= s.hi; r++ {
			require.True(t, unicode.IsLetter(r), "%U is not a letter", r)
			require.False(t, unicode.IsMark(r))
		}
		for _, o := range alphabet[:i] {
			require.True(t, s.lo > o.hi || s.hi < o.lo, "%U-%U overlaps %U-%U", s.lo, s.hi, o.lo, o.hi)
		}
	}
}

func TestTexts(t *testing.T) {
	for text, ok := range map[string]bool{
		"hello":                    true,
		"a\tb":                     true,
		"שלום world 👋🏽 é":          true,
		strings.Repeat("x", 4096):  true,
		strings.Repeat("x", 4097):  false,
		"":                         false,
		" \t ":                     false,
		"a\nb":                     false,
		"a\rb":                     false,
		"\x1b]0;title\x07":         false,
		"\u009b31m":                false,
		"a\xc3":                    false,
		"\u202egnitirw":            false,
		"a\u2028b":                 false,
		"\x7f":                     false,
		"nul \x00":                 false,
		"\u2067isolated\u2069 end": false,
	} {
		if err := checkText(text, 4096); ok {
			require.NoError(t, err, "%q", text)
		} else {
			require.ErrorIs(t, err, ErrBadText, "%q", text)
		}
	}
}
