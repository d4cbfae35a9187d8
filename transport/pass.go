package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// A pass is an X.509 certificate (RFC 5280) with the key of a process, signed by one of the two keys of a realm. Its subject
// alternative names are the URIs roam:host or roam:guest, and roam:service:NAME for each service to which it is limited, and
// the DNS name "roam". Nothing depends on a clock: passes are valid until the year 9999.
const (
	uriScheme  = "roam"
	uriService = "service:"
	dnsName    = "roam"

	issuerPrefix = "roam realm "
	maxServices  = 64 // names in a pass
)

var (
	noBefore = time.Unix(0, 0)
	noAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // RFC 5280, 4.1.2.5: does not expire
)

// Issue returns a pass for the process with a key: a certificate with its role, limited to the named services, or for all
// services without names. The process joins with the code from [Realm.PassCode]. A program in another language, with an
// ordinary TLS stack, presents the certificate itself and trusts [Realm.Authorities]; the DNS name in it is "roam".
//
// It is an error if this process's own rights do not suffice: guests can make guests, and only a host that has the realm's
// secret can make hosts.
func (r *Realm) Issue(key Key, role Role, services ...string) (*x509.Certificate, error) {
	if role == RoleHost && r.hostKey == nil || role == RoleGuest && r.guestKey == nil || role != RoleHost && role != RoleGuest {
		return nil, fmt.Errorf("transport: realm %v: this process, a %v, cannot issue a pass for the role %v", r, r.role, role)
	}
	if len(services) > maxServices {
		return nil, fmt.Errorf("transport: realm %v: a pass for %d services, more than %d", r, len(services), maxServices)
	}
	uris := []*url.URL{{Scheme: uriScheme, Opaque: role.String()}}
	for _, name := range services {
		if !fitsPass(name) {
			return nil, fmt.Errorf("transport: realm %v: %q is not a name of a service", r, name)
		}
		uris = append(uris, &url.URL{Scheme: uriScheme, Opaque: uriService + url.PathEscape(name)})
	}
	serial := make([]byte, 16)
	rand.Read(serial)
	issuer, parent := r.issuer(role)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: "roam " + role.String()},
		NotBefore:    noBefore, NotAfter: noAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        uris, DNSNames: []string{dnsName},
	}, parent, ed25519.PublicKey(key[:]), issuer)
	if err != nil {
		return nil, fmt.Errorf("transport: realm %v: %w", r, err)
	}
	return x509.ParseCertificate(der)
}

// fitsPass reports whether a service's name can be in a pass: [Peer].Services separates names by spaces.
func fitsPass(name string) bool { return name != "" && !strings.ContainsAny(name, " \t\n") }

// issuer returns the key that signs passes for a role, and the certificate of that key without its signature.
func (r *Realm) issuer(role Role) (ed25519.PrivateKey, *x509.Certificate) {
	key, public := r.guestKey, r.guests
	if role == RoleHost {
		key, public = r.hostKey, r.hosts
	}
	id := sha256.Sum256(public)
	return key, &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: issuerPrefix + r.String() + " " + role.String() + "s"},
		NotBefore:    noBefore, NotAfter: noAfter,
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		SubjectKeyId: id[:20],
	}
}

// Authorities returns the certificates of the keys that issue the realm's passes, for an ordinary TLS stack: of the hosts'
// key first, if this process has it, and of the guests' key. The certificate of a key is the same at each call.
func (r *Realm) Authorities() ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, role := range []Role{RoleHost, RoleGuest} {
		key, template := r.issuer(role)
		if key == nil {
			continue
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, publicOf(key), key) // Ed25519 uses no randomness
		if err != nil {
			return nil, fmt.Errorf("transport: realm %v: %w", r, err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("transport: realm %v: %w", r, err)
		}
		all = append(all, cert)
	}
	return all, nil
}

// own returns the pass of this process.
func (r *Realm) own(key Key) (*x509.Certificate, error) {
	if r.pass == nil {
		return r.Issue(key, r.role)
	}
	if pub, ok := r.pass.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(ed25519.PublicKey(key[:])) {
		return nil, fmt.Errorf("transport: the pass of realm %v was issued for another key than %v: set Identity", r, key)
	}
	return r.pass, nil
}

// admission is what a pass allows.
type admission struct {
	role     Role
	services string // see Peer.Services
}

// check returns what a certificate allows in the realm. It is an error if the realm did not issue it.
func (r *Realm) check(cert *x509.Certificate) (a admission, err error) {
	var services []string
	for _, u := range cert.URIs {
		if u.Scheme != uriScheme {
			continue
		}
		name, limited := strings.CutPrefix(u.Opaque, uriService)
		switch {
		case limited:
			if name, err = url.PathUnescape(name); err != nil || !fitsPass(name) {
				return a, fmt.Errorf("the name %.100q in its pass is malformed", u)
			}
			services = append(services, name)
		case u.Opaque == RoleHost.String() && a.role == 0:
			a.role = RoleHost
		case u.Opaque == RoleGuest.String() && a.role == 0:
			a.role = RoleGuest
		default:
			// A later version may narrow a pass in this way.
			return a, fmt.Errorf("the name %.100q in its pass is unknown", u)
		}
	}
	issuer := r.guests
	switch a.role {
	case RoleOpen:
		return a, errNoPass
	case RoleHost:
		issuer = r.hosts
	}
	if cert.SignatureAlgorithm != x509.PureEd25519 || !ed25519.Verify(issuer, cert.RawTBSCertificate, cert.Signature) {
		return admission{}, errNoPass
	}
	if cert.IsCA || len(cert.UnhandledCriticalExtensions) > 0 || len(services) > maxServices {
		return admission{}, errors.New("its pass is malformed")
	}
	slices.Sort(services)
	a.services = strings.Join(services, " ")
	return a, nil
}

// errNoPass says that a realm did not issue a certificate.
var errNoPass = errors.New("its certificate was not issued by the realm")

// members checks the passes of peers. Processes connect again and again with the same pass, so it remembers some.
type members struct {
	realms []*Realm // the own one first

	mu    sync.Mutex // guards known
	known map[[sha256.Size]byte]admission
}

const maxKnown = 4096 // passes that are remembered

func newMembers(own *Realm, more []*Realm) *members {
	return &members{realms: append([]*Realm{own}, more...), known: make(map[[sha256.Size]byte]admission)}
}

// admit returns what the holder of a certificate may do, or [ErrNotMember]. A nil cert stands for a peer without any.
func (m *members) admit(cert *x509.Certificate) (admission, error) {
	if cert == nil {
		return admission{}, Errorf(CodeNotMember, "the peer is not a member of realm %v: it proves nothing", m.realms[0])
	}
	sum := sha256.Sum256(cert.Raw)
	m.mu.Lock()
	a, ok := m.known[sum]
	m.mu.Unlock()
	if ok {
		return a, nil
	}
	var err error
	for _, r := range m.realms {
		if a, err = r.check(cert); err == nil {
			m.mu.Lock()
			if len(m.known) >= maxKnown {
				clear(m.known)
			}
			m.known[sum] = a
			m.mu.Unlock()
			return a, nil
		} else if err != errNoPass {
			break
		}
	}
	if err == errNoPass {
		err = errors.New(belongs(cert))
	}
	return admission{}, Errorf(CodeNotMember, "the peer is not a member of realm %v: %v", m.realms[0], err)
}

// belongs describes whose certificate it is, as far as the certificate itself says.
func belongs(cert *x509.Certificate) string {
	if name := realmIn(cert); name != "" {
		return fmt.Sprintf("its pass names realm %q", name)
	}
	return "it has no pass (is it configured without a realm?)"
}

// realmIn returns at most 20 characters of the realm that a certificate names, or "". It proves nothing.
func realmIn(cert *x509.Certificate) string {
	name, ok := strings.CutPrefix(cert.Issuer.CommonName, issuerPrefix)
	if !ok {
		return ""
	}
	name, _, _ = strings.Cut(name, " ")
	return fmt.Sprintf("%.20s", name)
}
