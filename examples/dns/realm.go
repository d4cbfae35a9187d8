package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"

	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/transport"
)

// loadRealm reads the realm in a file, and creates the file if it does not exist. Without a file the realm is new.
func loadRealm(file string) (*transport.Realm, error) {
	if file == "" {
		return transport.NewRealm(), nil
	}
	realm, err := transport.LoadRealm(file)
	if err != nil {
		return nil, err
	}
	if _, err := realm.Code(transport.RoleHost, transport.Peer{}); err != nil {
		return nil, fmt.Errorf("%s has no secret of a realm, only a code for guests or a pass", file)
	}
	return realm, nil
}

// printCodes prints the codes with which other programs join the realm.
func printCodes(realm *transport.Realm, self transport.Peer) error {
	host, err := realm.Code(transport.RoleHost, self)
	if err != nil {
		return err
	}
	guest, err := realm.Code(transport.RoleGuest, self)
	if err != nil {
		return err
	}
	fmt.Println("dns: others join with one of these codes, which are secrets")
	fmt.Println("dns: to talk and host the chat:  -join", host)
	fmt.Println("dns: to talk only:               -join", guest)
	return nil
}

// printFlags prints the flags with which other programs find a DNS without a realm.
func printFlags(self transport.Peer, insecure bool) {
	host, port, _ := net.SplitHostPort(self.Addr)
	if insecure {
		fmt.Printf("dns: start the other programs with -insecure -dns_ip %s -dns_port %s\n", host, port)
		return
	}
	fmt.Printf("dns: start the other programs with -open -dns_ip %s -dns_port %s -dns_key %s\n", host, port, self.Key)
}

// leaveCode leaves the code for hosts where other programs of the user find it. Without a realm it removes an earlier one,
// which would lead them to a realm that is gone. The result is called at the end; it removes the code if it is temporary.
func leaveCode(realm *transport.Realm, self transport.Peer, temporary bool) (atEnd func()) {
	atEnd = func() {}
	_, p, _ := net.SplitHostPort(self.Addr)
	port, _ := strconv.Atoi(p)
	file, err := cli.JoinFile(port)
	if realm == nil {
		if err == nil {
			err = os.Remove(file)
		}
		if err != nil && file != "" && !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(os.Stderr, "dns: programs without -open find an old code: %s\n", cli.Reason(err))
		}
		return atEnd
	}
	var code string
	if err == nil {
		if code, err = realm.Code(transport.RoleHost, self); err == nil {
			err = cli.WriteCode(file, code)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "dns: programs on this machine need -join as well: %s\n", cli.Reason(err))
		return atEnd
	}
	fmt.Println("dns: your programs on this machine need no code: they find it in", file)
	if temporary {
		atEnd = func() {
			if b, _ := os.ReadFile(file); string(b) == code+"\n" { // not that of a later DNS
				os.Remove(file)
			}
		}
	}
	return atEnd
}
