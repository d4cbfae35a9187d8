package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
)

// tlsConfigs returns the configurations of a client and a server. Both sides present a certificate with their public key:
// pass, or one signed by itself if pass is nil. The handshake proves the possession of the private key.
//
// The callers verify what the peer presents, in VerifyConnection: there is no chain of certificates, and no names of hosts.
func tlsConfigs(id *Identity, pass []byte) (client, server *tls.Config, err error) {
	if pass == nil {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: noBefore, NotAfter: noAfter}
		if pass, err = x509.CreateCertificate(rand.Reader, template, template, id.key.Public(), id.key); err != nil {
			return nil, nil, fmt.Errorf("transport: certificate: %w", err)
		}
	}
	base := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{pass}, PrivateKey: id.key}},
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"roam/1"},
		// A resumed session would have to be verified, too.
		SessionTicketsDisabled: true,
	}
	client, server = base.Clone(), base.Clone()
	client.InsecureSkipVerify = true
	server.ClientAuth = tls.RequireAnyClientCert
	return client, server, nil
}

// verify sets in p what the peer has proved in a handshake. members is nil without a realm.
func (p *Peer) verify(st tls.ConnectionState, members *members) error {
	key, err := peerKey(st)
	if err != nil {
		return err
	}
	var a admission
	if members != nil {
		if a, err = members.admit(st.PeerCertificates[0]); err != nil {
			return err
		}
	}
	return p.proved(key, a, members != nil)
}

// proved compares what a peer must prove with what it has proved, and sets that in p. In a realm, that includes the role.
func (p *Peer) proved(key Key, a admission, realm bool) error {
	if !p.Key.IsZero() && key != p.Key {
		return Errorf(CodeWrongKey, "expected key %v, the peer has %v", p.Key, key)
	}
	if realm && a.role < p.Role {
		return Errorf(CodeNotMember, "expected a %v, the peer is a %v", p.Role, a.role)
	}
	p.Key, p.Role, p.Services = key, a.role, a.services
	return nil
}

// peerKey returns the key that the peer has proved.
func peerKey(st tls.ConnectionState) (Key, error) {
	var k Key
	if len(st.PeerCertificates) == 0 {
		return k, Errorf(CodeWrongKey, "the peer presents no certificate")
	}
	pub, ok := st.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || len(pub) != len(k) {
		return k, Errorf(CodeWrongKey, "the peer's certificate has no Ed25519 key")
	}
	copy(k[:], pub)
	return k, nil
}

// askPlaintext is the hint in errors where only one side speaks TLS.
const askPlaintext = "does one of the two use InsecurePlaintext?"

// plaintextAlert is the answer of a listener with TLS to a plaintext message: the fatal alert unexpected_message (RFC 8446,
// 6).
var plaintextAlert = []byte{0x15, 3, 3, 0, 2, 2, 10}

// foundMessage reports whether a handshake failed because the peer sent a plaintext message.
func foundMessage(err error) bool {
	e, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok && checkFirst(e.RecordHeader[0]) == nil
}

func handshakeError(err error, lim *limits) error {
	if isTimeout(err) {
		return Errorf(CodeTimeout, "no TLS handshake in %v", lim.handshake)
	}
	if CodeOf(err) != CodeUnknown {
		return err
	}
	if refusedPass(err) {
		return lim.refusedPass("")
	}
	if foundMessage(err) {
		return fmt.Errorf("TLS handshake: the other side does not speak TLS: %s (%w)", askPlaintext, err)
	}
	return fmt.Errorf("TLS handshake: %w", err)
}

// refusedPass returns the error of a side that the peer did not admit. theirs is the realm that the peer's pass names, or "".
func (l *limits) refusedPass(theirs string) error {
	switch {
	case l.realm == "" && theirs == "":
		return Errorf(CodeNotMember, "the peer refused this side, which has no realm: the peer has one")
	case l.realm == "":
		return Errorf(CodeNotMember, "the peer refused this side, which has no realm: the peer's pass names realm %q", theirs)
	}
	return Errorf(CodeNotMember, "the peer refused this side, a member of realm %s: the two are not members of the same realm",
		l.realm)
}

// refusedPass reports whether the peer has ended the handshake because of the certificate of this side. With TLS 1.3 the
// dialer learns it when it reads for the first time.
func refusedPass(err error) bool {
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "remote error" && e.Err.Error() == "tls: bad certificate"
}
