package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// tlsConfigs makes the two halves' configurations. Both sides show a certificate that they signed themselves: it is only
// the envelope in which TLS carries a public key, and the handshake proves that its owner holds the private one.
func tlsConfigs(id *Identity) (client, server *tls.Config, err error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, 4.1.2.5: does not expire
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, id.key.Public(), id.key)
	if err != nil {
		return nil, nil, fmt.Errorf("transport: certificate: %w", err)
	}
	base := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: id.key}},
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"roam/1"},
		// A resumed session would be one more thing that has to be pinned.
		SessionTicketsDisabled: true,
	}
	client, server = base.Clone(), base.Clone()
	// Peers are known by their keys, not by names that an authority has signed: the chain means nothing here, and
	// VerifyConnection, which is set for each dial, compares the key.
	client.InsecureSkipVerify = true
	server.ClientAuth = tls.RequireAnyClientCert
	server.VerifyConnection = func(st tls.ConnectionState) error {
		_, err := peerKey(st)
		return err
	}
	return client, server, nil
}

// peerKey is the key that the peer has proved in a handshake.
func peerKey(st tls.ConnectionState) (Key, error) {
	var k Key
	if len(st.PeerCertificates) == 0 {
		return k, Errorf(CodeWrongKey, "the peer shows no certificate")
	}
	pub, ok := st.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || len(pub) != len(k) {
		return k, Errorf(CodeWrongKey, "the peer's certificate has no Ed25519 key")
	}
	copy(k[:], pub)
	return k, nil
}

// askPlaintext ends the errors of two sides of which one speaks TLS.
const askPlaintext = "does one of the two use InsecurePlaintext?"

// plaintextAlert is what a listener with TLS answers to a message: the fatal alert unexpected_message (RFC 8446, 6).
var plaintextAlert = []byte{0x15, 3, 3, 0, 2, 2, 10}

// foundMessage reports whether a handshake failed because there was a message in place of TLS.
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
	if foundMessage(err) {
		return fmt.Errorf("TLS handshake: the other side does not speak TLS: %s (%w)", askPlaintext, err)
	}
	return fmt.Errorf("TLS handshake: %w", err)
}
