package transport

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
)

// Key is an Ed25519 public key (RFC 8032), by which a process is known. The zero Key stands for none.
type Key [ed25519.PublicKeySize]byte

// IsZero reports whether k stands for no key.
func (k Key) IsZero() bool { return k == Key{} }

// String is k in unpadded URL-safe base64, 43 characters; "" for the zero Key. [ParseKey] reads it.
func (k Key) String() string {
	if k.IsZero() {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(k[:])
}

// ParseKey reads what [Key.String] wrote.
func ParseKey(s string) (Key, error) {
	var k Key
	if s == "" {
		return k, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("transport: %q is not a key: want 43 characters of base64", s)
	}
	copy(k[:], b)
	return k, nil
}
