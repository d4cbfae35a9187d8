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
	"path/filepath"
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

// Identity is a private key, by which this process proves who it is. It does not change and is safe for concurrent use.
type Identity struct {
	key ed25519.PrivateKey
}

// NewIdentity makes an identity at random.
func NewIdentity() *Identity {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // the random source of the system does not fail: it would end the process itself
	}
	return &Identity{key: key}
}

// LoadIdentity reads the identity in the file at path, which it makes, with mode 0600, if there is none. The file holds the
// key in PKCS #8 as PEM, as openssl makes and reads it. A file that is anything else is an error and stays as it is.
func LoadIdentity(path string) (*Identity, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id := NewIdentity()
		if err = id.save(path); err == nil {
			return id, nil
		}
		if errors.Is(err, fs.ErrExist) { // another process was faster
			data, err = os.ReadFile(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("transport: identity: %w", err) // os.ReadFile and save name the path
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		return nil, fmt.Errorf("transport: identity: %s does not hold one PEM block PRIVATE KEY: it is torn or another file; "+
			"restore it, or remove it to become somebody new", path)
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

// save writes the file so that at any time there is either none or a whole one at path, and never replaces one.
func (id *Identity) save(path string) error {
	err := id.saveBeside(path)
	// Who asked for path knows nothing of a temporary file.
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	} else if e, ok := errors.AsType[*os.LinkError](err); ok {
		err = e.Err
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return nil
}

// saveBeside is save with errors that name the temporary file.
func (id *Identity) saveBeside(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// Key is the public key.
func (id *Identity) Key() Key { return Key(id.key.Public().(ed25519.PublicKey)) }

// Sign signs message; [ed25519.Verify] with the Key checks it. What is signed should say what it is for, since the same key
// proves the identity in TLS.
func (id *Identity) Sign(message []byte) []byte { return ed25519.Sign(id.key, message) }
