package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

var (
	errNotHost = errors.New("this process does not host the chat")
	errNoCopy  = errors.New("this process holds no copy of the chat")
	errServing = errors.New("this process serves the chat")
)

// Reset continues the chat with the copy that this process holds, unless another host is active or holds more. Without a
// copy it fails, so that it never begins an empty chat. [Flags.ExplainReset] describes its errors.
func (p *Process) Reset(ctx context.Context) error {
	if p.Node == nil {
		return errNotHost
	}
	if !p.holdsCopy() {
		return errNoCopy
	}
	ctx, cancel := context.WithTimeout(ctx, hostTimeout)
	defer cancel()
	s, err := p.hostBy(ctx, p.Node.Reset)
	if err != nil {
		if errors.Is(err, migrate.ErrExists) && p.serves() {
			return errServing
		}
		return err
	}
	if a := s.Status().Record.Active; a.ID != "" && !a.Same(p.Node.Self()) { // it was faster
		return transport.Errorf(migrate.CodeExists, "migrate: service %s is active on host %s", p.Flags.Service, a.ID)
	}
	return nil
}

// status returns the status of the chat on this process's node; its Role is "" if the node does not host the chat.
func (p *Process) status() migrate.Status {
	for _, s := range p.Node.Services() {
		if st := s.Status(); st.Service == p.Flags.Service {
			return st
		}
	}
	return migrate.Status{}
}

// holdsCopy reports whether this process holds a copy of the chat, in the in-sync set or not. A copy has at least one entry.
func (p *Process) holdsCopy() bool { return p.status().Last > 0 }

func (p *Process) serves() bool {
	r := p.status().Role
	return r == migrate.Active || r == migrate.Recovering
}

// ExplainReset describes an error of [Process.Reset] to the user.
func (f *Flags) ExplainReset(err error) string {
	switch {
	case errors.Is(err, errNotHost) && f.Guest():
		return fmt.Sprintf("you joined with a code for guests, so this process holds no copy of %s to continue with.", f.Service)
	case errors.Is(err, errNotHost):
		return fmt.Sprintf("with -client_only this process holds no copy of %s to continue with.", f.Service)
	case errors.Is(err, errNoCopy):
		return fmt.Sprintf("this process holds no copy of %s to continue with. If no host holds one, its messages are lost: then "+
			"restart the chat, empty, with -s -reset.", f.Service)
	case errors.Is(err, errServing):
		return fmt.Sprintf("this process serves %s, so there is nothing to reset.", f.Service)
	case errors.Is(err, migrate.ErrNoHost):
		return f.Explain(err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("cannot continue %s: the DNS at %s, or another host, has not answered in time. Try again.", f.Service,
			f.DNS())
	}
	return fmt.Sprintf("cannot continue %s: %s", f.Service, Reason(err))
}

// ExplainFailed describes an error of [migrate.Hooks].Failed to the user, in one line. If it names [migrate.Node.Reset], the
// user can call [Process.Reset] with reset, unless that is "".
func ExplainFailed(err error, reset string) string {
	s := Printable(strings.TrimPrefix(err.Error(), "migrate: "))
	if reset != "" && strings.Contains(s, "Node.Reset") {
		s += " (" + reset + " calls it)"
	}
	return s
}
