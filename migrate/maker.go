package migrate

import (
	"io"

	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/transport"
)

// maker creates copies of the service with the user's function.
type maker struct {
	*site
	fresh func() Migratable
	ahead Migratable // an instance created for the next empty copy; nil: none. It belongs to the loop.
}

// machine creates the machine of an empty copy.
func (k *maker) machine() (*machine.Machine, error) {
	sm := k.ahead
	if k.ahead = nil; sm == nil {
		var err error
		if sm, err = k.instance(); err != nil {
			return nil, err
		}
	}
	m := machine.New(k.name, adapter{sm}, k.limits())
	m.OnPanic = k.panicked
	return m, nil
}

// restore creates a machine from a snapshot.
func (k *maker) restore(r io.Reader) (*machine.Machine, error) {
	sm, err := k.instance()
	if err != nil {
		return nil, err
	}
	m, err := machine.Restore(k.name, adapter{sm}, k.limits(), r)
	if err == nil {
		m.OnPanic = k.panicked
	}
	return m, err
}

// instance creates an empty instance of the service.
func (k *maker) instance() (Migratable, error) {
	if sm := k.fresh(); sm != nil {
		return sm, nil
	}
	return nil, transport.Errorf(CodeConfig, "migrate: service %s: the function that makes an instance has returned nil", k.name)
}

func (k *maker) limits() machine.Limits {
	lim := k.node.limits
	lim.EventBytes = k.policy.EventBytes
	if k.policy.SessionsPerKey > 0 {
		lim.SessionsPerKey = k.policy.SessionsPerKey
	}
	return lim
}
