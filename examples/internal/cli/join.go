package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/roam-go/roam/transport"
)

// listenAll is the default of Listen.
const listenAll = ":0"

// FindDNS sets the realm, and the address and key of the DNS. They come from the code in Join. Without one, a DNS of the same
// user on this machine has left it in a file. A flag that was given takes precedence over the code's address; given may be
// nil. FindDNS dials nothing.
func (f *Flags) FindDNS(given func(flag string) bool) error {
	if given == nil {
		given = func(string) bool { return false }
	}
	var server transport.Peer
	var err error
	switch {
	case f.Open || f.Insecure:
	case f.Join != "":
		f.realm, server, err = parseJoin(f.Join)
	default:
		server, err = f.findCode()
	}
	if err != nil {
		return err
	}
	if server.Addr != "" {
		if err := f.useAddr(server.Addr, given); err != nil {
			return err
		}
	}
	if f.serverKey, err = transport.ParseKey(f.DNSKey); err != nil {
		return err
	}
	switch {
	case f.serverKey.IsZero():
		f.serverKey = server.Key
	case !server.Key.IsZero() && server.Key != f.serverKey:
		return fmt.Errorf("-dns_key contradicts the code, in which the DNS has the key %v: omit -dns_key, or copy the code "+
			"again", server.Key)
	}
	if f.Listen == "" {
		f.Listen = listenAll
	}
	f.anywhere = strings.HasPrefix(f.Listen, ":")
	if isLoopback(f.DNSIP) {
		f.listenLocally()
	}
	return nil
}

// listenLocally is called if the DNS has a loopback address: nobody else can reach it, and learn the address of this process.
// An address that was given stays.
func (f *Flags) listenLocally() {
	if f.anywhere {
		f.Listen, f.anywhere = "127.0.0.1"+f.Listen, false
	}
}

// useAddr sets the address of the DNS, except for the parts that flags have set.
func (f *Flags) useAddr(addr string, given func(flag string) bool) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("the code has a malformed address: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("the code has a malformed address: %w", err)
	}
	if !given("dns_ip") {
		f.DNSIP = host
	}
	if !given("dns_port") {
		f.DNSPort = int(n)
	}
	return nil
}

// Guest reports whether this process may only talk.
func (f *Flags) Guest() bool { return f.realm != nil && f.realm.Role() == transport.RoleGuest }

// parseJoin reads a code, or a file with one. Its errors do not contain the code.
func parseJoin(s string) (*transport.Realm, transport.Peer, error) {
	realm, server, err := transport.ParseCode(s)
	if err == nil || strings.HasPrefix(s, "roam-") {
		return realm, server, trimRealm("-join", err)
	}
	realm, server, err = transport.ReadCode(s)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, server, errors.New("-join is neither a code nor the name of a file")
	}
	return realm, server, trimRealm("-join", err)
}

// trimRealm replaces the prefix of an error of the transport.
func trimRealm(prefix string, err error) error {
	if err == nil {
		return nil
	}
	s := strings.TrimPrefix(err.Error(), "transport: ")
	return fmt.Errorf("%s: %s", prefix, strings.TrimPrefix(s, "realm: "))
}

// findCode reads the code that a DNS of this user on this machine has left.
func (f *Flags) findCode() (server transport.Peer, err error) {
	const remedy = "copy a line that dns prints at its start (-join CODE). If it was started with -open, use -open here as well"
	if !isLocal(f.DNSIP) {
		return server, fmt.Errorf("the DNS at %s is on another machine: %s", f.DNS(), remedy)
	}
	file, err := JoinFile(f.DNSPort)
	if err == nil {
		f.realm, server, err = transport.ReadCode(file)
	}
	switch {
	case err == nil:
		f.codeFile = file
		return server, nil
	case file == "", errors.Is(err, fs.ErrNotExist):
		return server, fmt.Errorf("you have started no DNS with port %d on this machine: start it with \"go run ./examples/dns "+
			"-port %d\". For the DNS of somebody else, %s", f.DNSPort, f.DNSPort, remedy)
	}
	return server, trimRealm("the code of the DNS", err)
}

// JoinFile returns the name of the file in which the DNS with a port leaves the code for hosts, for other programs of the same
// user.
func JoinFile(port int) (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "roam", fmt.Sprintf("dns-%d.join", port)), nil
}

// WriteCode writes a code to a file that only this user can read. Readers see the old code or the new one.
func WriteCode(file, code string) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(code + "\n")
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// WarnOpen warns the user of a program that was started with -open, or with -insecure.
func WarnOpen(w io.Writer, program string, insecure bool) {
	if insecure {
		fmt.Fprintf(w, "%s: warning: -insecure: everybody who can connect can host the chat, and everybody on the way can read "+
			"and change it\n", program)
		return
	}
	fmt.Fprintf(w, "%s: warning: -open: everybody who can connect can host the chat, and so read and change it\n", program)
}
