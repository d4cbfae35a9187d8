package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Key is the Ed25519 public key (RFC 8032) of a process. The zero Key means no key.
type Key [ed25519.PublicKeySize]byte

// IsZero reports whether k is the zero Key.
func (k Key) IsZero() bool { return k == Key{} }

// String returns k in unpadded URL-safe base64, which has 43 characters, or "" for the zero Key. [ParseKey] reads it.
func (k Key) String() string {
	if k.IsZero() {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(k[:])
}

// ParseKey parses the output of [Key.String].
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

// Identity is the private key that proves the identity of a process. It is immutable and safe for concurrent use.
type Identity struct {
	key ed25519.PrivateKey
}

// NewIdentity returns a new random identity.
func NewIdentity() *Identity {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // crypto/rand never fails: it would end the process
	}
	return &Identity{key: key}
}

// LoadIdentity reads the identity in the file at path, and creates the file with mode 0600 if it does not exist. The file
// contains the key in PKCS #8 as PEM, as openssl writes and reads it. LoadIdentity never changes a file that exists, and
// returns an error if it contains anything else.
func LoadIdentity(path string) (*Identity, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id := NewIdentity()
		if err = id.save(path); err == nil {
			return id, nil
		}
		if errors.Is(err, fs.ErrExist) { // another process has created it
			data, err = os.ReadFile(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("transport: identity: %w", err) // os.ReadFile and save name the path
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		return nil, fmt.Errorf("transport: identity: %s is not one PEM block PRIVATE KEY: it is damaged or another file; "+
			"restore it, or remove it to create a new identity", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("transport: identity: %s: %w", path, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("transport: identity: %s holds a key of type %T, not Ed25519", path, key)
	}
	return &Identity{key: private}, nil
}

// save creates the file at path atomically, and never replaces one.
func (id *Identity) save(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return err
	}
	return createFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// Key returns the public key.
func (id *Identity) Key() Key { return Key(id.key.Public().(ed25519.PublicKey)) }
