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

// tlsConfigs returns the configurations of a client and a server. Both sides present a self-signed certificate. It only
// carries the public key; the handshake proves the possession of the private key.
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
		// A resumed session would have to be pinned, too.
		SessionTicketsDisabled: true,
	}
	client, server = base.Clone(), base.Clone()
	// Peers are identified by their keys, not by names in a certificate chain. VerifyConnection, which is set for each dial,
	// compares the key.
	client.InsecureSkipVerify = true
	server.ClientAuth = tls.RequireAnyClientCert
	server.VerifyConnection = func(st tls.ConnectionState) error {
		_, err := peerKey(st)
		return err
	}
	return client, server, nil
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
	if foundMessage(err) {
		return fmt.Errorf("TLS handshake: the other side does not speak TLS: %s (%w)", askPlaintext, err)
	}
	return fmt.Errorf("TLS handshake: %w", err)
}
