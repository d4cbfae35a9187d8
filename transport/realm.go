package transport

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
)

// Role is what a process may do in a [Realm].
type Role uint8

const (
	// RoleOpen is the role of every peer of a transport without a realm, which cannot tell members from strangers. It may do
	// everything.
	RoleOpen Role = iota
	// RoleGuest may call services and read the records of a name service.
	RoleGuest
	// RoleHost may also host services and change their records.
	RoleHost
)

// String returns "open", "guest" or "host".
func (r Role) String() string {
	switch r {
	case RoleOpen:
		return "open"
	case RoleGuest:
		return "guest"
	case RoleHost:
		return "host"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Realm is a set of processes that know one secret: those that may host services, and their guests, which only call them.
// Everybody else is a stranger, whose connections fail in the TLS handshake.
//
// A realm has two Ed25519 keys, derived from its secret by HKDF (RFC 5869): one issues passes to hosts, the other to guests.
// A pass is a certificate for the key of one process, with its role. A process that has the secret issues its own pass, so
// no server takes part, and no message is added to the handshake. Guests get the guests' key and only the public half of the
// hosts' key. So a guest can invite guests, but cannot become a host.
//
// Passes do not expire, and no single one can be revoked: to exclude a process that had a secret, make a new realm. During
// the change [TCPConfig.Accept] admits the members of both.
//
// A Realm is immutable and safe for concurrent use.
type Realm struct {
	secret        []byte             // nil without the right to make hosts
	hosts, guests ed25519.PublicKey  // the keys that issue passes
	hostKey       ed25519.PrivateKey // nil without the right to make hosts
	guestKey      ed25519.PrivateKey // nil if there is only a pass
	pass          *x509.Certificate  // of a realm that was parsed from a pass
	role          Role
}

// secretSize is the size of a realm's secret, and of the seed of the guests' key, in bytes.
const secretSize = 32

// NewRealm returns a new realm with a random secret.
func NewRealm() *Realm {
	secret := make([]byte, secretSize)
	rand.Read(secret)
	return realmOf(secret)
}

// LoadRealm reads the realm in the file at path, and creates the file with a new realm and mode 0600 if it does not exist.
// The file holds a line as returned by [Realm.Code]. LoadRealm never changes a file that exists, and returns an error if
// other users can read it.
func LoadRealm(path string) (*Realm, error) {
	r, _, err := ReadCode(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	r = NewRealm()
	code, err := r.Code(RoleHost, Peer{})
	if err != nil {
		return nil, err
	}
	switch err := createFile(path, []byte(code+"\n")); {
	case errors.Is(err, fs.ErrExist): // another process has created it
		r, _, err = ReadCode(path)
		return r, err
	case err != nil:
		return nil, fmt.Errorf("transport: realm: %w", err)
	}
	return r, nil
}

// ReadCode reads a file that holds a code, as [ParseCode] does a string. It returns an error if other users can read the
// file.
func ReadCode(path string) (*Realm, Peer, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("transport: realm: %w", err)
	}
	if runtime.GOOS != "windows" && st.Mode().Perm()&0o077 != 0 {
		return nil, Peer{}, fmt.Errorf("transport: realm: other users can read %s: take their rights away (chmod 600)", path)
	}
	if st.Size() > maxCode {
		return nil, Peer{}, fmt.Errorf("transport: realm: %s has %d bytes, a code at most %d", path, st.Size(), maxCode)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("transport: realm: %w", err)
	}
	r, server, err := ParseCode(string(b))
	if err != nil {
		return nil, Peer{}, fmt.Errorf("%w (in %s)", err, path)
	}
	return r, server, nil
}

// realmOf returns the realm of a secret.
func realmOf(secret []byte) *Realm {
	r := &Realm{secret: secret, role: RoleHost}
	r.hostKey, r.guestKey = derive(secret, "roam realm: hosts"), derive(secret, "roam realm: guests")
	r.hosts, r.guests = publicOf(r.hostKey), publicOf(r.guestKey)
	return r
}

// derive returns the key that follows from a realm's secret for a purpose.
func derive(secret []byte, purpose string) ed25519.PrivateKey {
	seed, err := hkdf.Key(sha256.New, secret, nil, purpose, ed25519.SeedSize)
	if err != nil {
		panic(err) // only for a length beyond the limit of HKDF
	}
	return ed25519.NewKeyFromSeed(seed)
}

func publicOf(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// Role returns the role of a process that uses the realm: [RoleHost] or [RoleGuest].
func (r *Realm) Role() Role { return r.role }

// String returns the realm's name, eight letters and digits. It is not a secret. It tells realms apart in errors and logs,
// and proves nothing.
func (r *Realm) String() string {
	h := sha256.New()
	h.Write(r.hosts)
	h.Write(r.guests)
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)[:5]))
}

// same reports whether the two are the same realm, whatever this process may do in it.
func (r *Realm) same(o *Realm) bool { return r.hosts.Equal(o.hosts) && r.guests.Equal(o.guests) }
