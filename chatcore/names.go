package chatcore

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/roam-go/roam/transport"
)

// alphabet lists the letters allowed in names. It does not use the tables of package unicode, because hosts built with
// different Go versions have different Unicode versions, and all hosts of a room must accept the same names. All these
// letters have been assigned for long, are in composed form (NFC), and do not combine.
var alphabet = []struct {
	lo, hi rune
	script script
}{
	{'A', 'Z', latin}, {'a', 'z', latin},
	{0x00c0, 0x00d6, latin}, {0x00d8, 0x00f6, latin}, {0x00f8, 0x0131, latin},
	{0x0134, 0x013e, latin}, {0x0141, 0x0148, latin}, {0x014a, 0x017f, latin}, // without ligatures and digraphs
	{0x01a0, 0x01a1, latin}, {0x01af, 0x01b0, latin}, {0x01cd, 0x01dc, latin}, {0x0218, 0x021b, latin},
	{0x1ea0, 0x1ef9, latin},
	{0x0386, 0x0386, greek}, {0x0388, 0x038a, greek}, {0x038c, 0x038c, greek}, {0x038e, 0x03a1, greek}, {0x03a3, 0x03ce, greek},
	{0x0400, 0x0481, cyrillic}, {0x048a, 0x052f, cyrillic},
	{0x0531, 0x0556, armenian}, {0x0561, 0x0586, armenian},
	{0x05d0, 0x05ea, hebrew},
	{0x0621, 0x063a, arabic}, {0x0641, 0x064a, arabic}, {0x0671, 0x06d3, arabic},
	{0x10d0, 0x10f0, georgian},
	{0x3041, 0x3096, eastAsian}, {0x30a1, 0x30fa, eastAsian}, {0x30fc, 0x30fc, eastAsian}, {0x4e00, 0x9fff, eastAsian},
	{0xac00, 0xd7a3, hangul},
}

// script is a group of letters that can occur together in a name.
type script uint8

const (
	noScript script = iota
	latin
	greek
	cyrillic
	armenian
	hebrew
	arabic
	georgian
	eastAsian // Chinese characters, hiragana and katakana
	hangul
)

// lookalikes maps a case-folded letter to the case-folded letter that it is confusable with.
var lookalikes = map[rune]rune{
	'0': 'O', '1': 'L', 'I': 'L', 0x0131: 'L',
	0xb5: 'M', 0x0345: 'L', // case folds of Greek mu and iota
	// Greek
	'Α': 'A', 'Β': 'B', 'Ε': 'E', 'Ζ': 'Z', 'Η': 'H', 'Κ': 'K', 'Ν': 'N', 'Ο': 'O', 'Ρ': 'P', 'Τ': 'T',
	'Υ': 'Y', 'Χ': 'X', 'Ω': 'W',
	// Cyrillic
	'А': 'A', 'В': 'B', 'Г': 'R', 'Е': 'E', 'К': 'K', 'М': 'M', 'Н': 'H', 'О': 'O', 'П': 'N', 'Р': 'P', 'С': 'C', 'Т': 'T',
	'У': 'Y', 'Х': 'X', 'Ь': 'B', 'Ѕ': 'S', 'І': 'L', 'Ј': 'J', 'Ү': 'Y', 'Һ': 'H', 'Ӏ': 'L', 'Ԁ': 'D', 'Ԛ': 'Q', 'Ԝ': 'W',
	'Ѵ': 'V',
	// Armenian, Hebrew, Arabic
	'Հ': 'H', 'Ո': 'N', 'Ս': 'U', 'Օ': 'O', 'ו': 'L', 'ן': 'L', 'ס': 'O', 'ا': 'L', 'ه': 'O',
	// Katakana, and the Chinese character or hiragana that looks the same
	'ロ': '口', 'エ': '工', 'カ': '力', 'ニ': '二', 'ハ': '八', 'タ': '夕', 'ト': '卜', 'ー': '一', 'ヘ': 'へ', 'ベ': 'べ', 'ペ': 'ぺ',
	'リ': 'り',
}

// scriptOf returns the script of r, or noScript if r is not a letter allowed in names.
func scriptOf(r rune) script {
	for _, s := range alphabet {
		if s.lo <= r && r <= s.hi {
			return s.script
		}
	}
	return noScript
}

// checkName trims and validates a name. Names with equal ids are equal or confusable.
func checkName(name string, maxName int) (trimmed, id string, err error) {
	name = strings.Trim(name, " \t\r\n")
	switch {
	case name == "":
		return "", "", transport.Errorf(CodeBadName, "chat: the name is empty")
	case len(name) > utf8.UTFMax*maxName || utf8.RuneCountInString(name) > maxName:
		return "", "", transport.Errorf(CodeBadName, "chat: the name is longer than %d characters", maxName)
	}
	var found script
	for i, r := range name {
		switch s := scriptOf(r); {
		case s != noScript && found != noScript && s != found:
			return "", "", transport.Errorf(CodeBadName, "chat: the name %q mixes two scripts", name)
		case s != noScript:
			found = s
		case '0' <= r && r <= '9':
		case i > 0 && strings.ContainsRune("-_.", r):
		default:
			return "", "", transport.Errorf(CodeBadName, "chat: the name %q contains %q: only letters and digits are allowed, "+
				"and - _ . after the first character", name, r)
		}
	}
	return name, nameID(name), nil
}

// nameID folds case and confusable letters.
func nameID(name string) string {
	return strings.Map(func(r rune) rune {
		low := r // the smallest letter of the case-folding orbit
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			low = min(low, f)
		}
		if l, ok := lookalikes[low]; ok {
			return l
		}
		return low
	}, name)
}

// checkText validates the text of a message.
func checkText(text string, maxText int) error {
	switch {
	case strings.Trim(text, " \t") == "":
		return transport.Errorf(CodeBadText, "chat: the text is empty")
	case len(text) > maxText:
		return transport.Errorf(CodeBadText, "chat: the text has %d bytes; the maximum is %d", len(text), maxText)
	case !utf8.ValidString(text):
		return transport.Errorf(CodeBadText, "chat: the text is not UTF-8")
	}
	for _, r := range text {
		switch {
		case r == '\t':
		case r < ' ', 0x7f <= r && r < 0xa0, // control characters
			r == 0x2028, r == 0x2029, // line separators
			0x202a <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069: // change the writing direction
			return transport.Errorf(CodeBadText, "chat: the text contains the control character %U", r)
		}
	}
	return nil
}
