package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// splitHost splits an address as people type it: a name or an IP address, with or without brackets, a zone and a port. port is
// "" if there is none.
func splitHost(s string) (host, port string, err error) {
	s = strings.TrimSpace(s)
	if strings.ContainsAny(s, "/ ") {
		return "", "", errors.New("it is neither a name nor an IP address")
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return s, "", nil
	}
	if in, ok := strings.CutPrefix(s, "["); ok {
		host, after, ok := strings.Cut(in, "]")
		if !ok {
			return "", "", errors.New("it has no closing bracket")
		}
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return "", "", errors.New("brackets are for IPv6 addresses")
		}
		if after == "" {
			return host, "", nil
		}
		if port, ok = strings.CutPrefix(after, ":"); !ok {
			return "", "", errors.New("only :PORT may follow the brackets")
		}
		return host, port, nil
	}
	host, port, _ = strings.Cut(s, ":")
	switch {
	case host == "":
		return "", "", errors.New("it names no host")
	case strings.Contains(port, ":"), strings.ContainsAny(host, "[]"):
		return "", "", errors.New("it is neither a name nor an IP address")
	}
	return host, port, nil
}

// SplitAddress moves the port in addr, which the user typed for the flag named addrFlag, to port, and reports whether there was
// one. It is an error if the user has also set the flag named portFlag, given, to another one. least is the lowest port.
func SplitAddress(addrFlag string, addr *string, portFlag string, port *int, given bool, least int) (moved bool, err error) {
	host, p, err := splitHost(*addr)
	if err != nil {
		return false, fmt.Errorf("-%s %q is not an address: %w", addrFlag, *addr, err)
	}
	if p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		switch {
		case err != nil || int(n) < least:
			return false, fmt.Errorf("-%s %q has the port %q, want %d to 65535", addrFlag, *addr, p, least)
		case given && int(n) != *port:
			return false, fmt.Errorf("-%s %q has the port %d, but -%s is %d: omit one of them", addrFlag, *addr, n, portFlag, *port)
		}
		*port = int(n)
	}
	*addr = host
	return p != "", nil
}

// listenAddress returns an address to listen on as package net takes it. An IP address without a port gets port 0.
func listenAddress(s string) (string, error) {
	bad := fmt.Errorf("-listen %q is not an address such as :0, :7000 or 192.168.1.5:7000", s)
	host := ""
	port, all := strings.CutPrefix(s, ":") // all addresses
	if !all || strings.Contains(port, ":") {
		var err error
		if host, port, err = splitHost(s); err != nil {
			return "", bad
		}
		if port == "" && parseIP(host).IsValid() {
			port = "0"
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", bad
	}
	return net.JoinHostPort(host, port), nil
}

// parseIP parses an IP address with or without a zone. It returns the zero Addr for a name.
func parseIP(host string) netip.Addr {
	ip, _ := netip.ParseAddr(host)
	return ip.WithZone("").Unmap()
}

func isLoopback(host string) bool {
	return strings.EqualFold(host, "localhost") || parseIP(host).IsLoopback()
}

// isLocal reports whether host is this machine, without a lookup of names.
func isLocal(host string) bool {
	if isLoopback(host) {
		return true
	}
	ip := parseIP(host)
	own, _ := net.InterfaceAddrs()
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && ip.IsValid() && n.IP.Equal(ip.AsSlice()) {
			return true
		}
	}
	return false
}
