package migrate

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// failureTexts records the calls of Hooks.Failed, by host.
type failureTexts struct {
	ofNode bool // the node may fail, too

	mu    sync.Mutex
	texts map[string][]string
}

// node makes a node whose failures are recorded.
func (f *failureTexts) node(w *world, name string) {
	w.hooks.Failed = func(service string, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if service != "svc" && !(service == "" && f.ofNode) {
			w.t.Errorf("a failure of service %q: %v", service, err)
		}
		if f.texts == nil {
			f.texts = make(map[string][]string)
		}
		f.texts[name] = append(f.texts[name], err.Error())
	}
	w.node(name)
}

// of returns the failures of a host.
func (f *failureTexts) of(name string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.texts[name])
}

// Hosts with different policies both report it when one joins the other. The guarantee changes with a handoff and with a
// failover, so the new active host reports it again.
func TestPolicyDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var f failureTexts
		f.node(w, "a")
		f.node(w, "b")
		a := w.host("a", "svc", Policy{MinInSync: 2})
		w.standby("b", "svc", Policy{})
		w.inSync(a, 2)
		time.Sleep(time.Minute)
		for _, host := range []string{"a", "b"} {
			got := f.of(host)
			require.Len(t, got, 1, "%s: %q", host, got)
			require.Contains(t, got[0], "migrate: service svc: Policy.MinInSync is ")
			require.Contains(t, got[0], "while host b is active, the minimum number of hosts that hold an acknowledged command "+
				"is 1, not 2; the hosts of a service need equal policies")
		}

		_, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Len(t, f.of("a"), 1)
		got := f.of("b")
		require.Len(t, got, 2, "%q", got)
		require.Contains(t, got[1], "migrate: service svc: host b, now active after host a, has another policy: Policy.MinInSync is 1 on "+
			"host b and 2 on host a; ")

		w.crash("b")
		w.role(a, Recovering) // it waits for another host
		time.Sleep(time.Minute)
		got = f.of("a")
		require.Len(t, got, 3, "%q", got)
		require.Contains(t, got[1], "migrate: service svc: host a, now active after host b, has another policy: ")
		require.Contains(t, got[2], "host a acknowledges no commands: 1 of 2 hosts in sync")
	})
}

// Hosts that were both standbys learn of each other's policies when one of them takes over.
func TestPolicyOfStandbys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var f failureTexts
		policies := map[string]Policy{"a": {Copies: 3}, "b": {Copies: 3}, "c": {Copies: 3}, "d": {Copies: 4}}
		for _, name := range []string{"a", "b", "c"} {
			f.node(w, name)
		}
		a := w.host("a", "svc", policies["a"])
		w.standby("b", "svc", policies["b"])
		w.standby("c", "svc", policies["c"])
		w.inSync(a, 3)
		_, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		w.crash("b")
		w.inSync(w.active("svc"), 2)
		for name := range policies {
			require.Empty(t, f.of(name), "equal policies")
		}

		f.node(w, "d")
		w.standby("d", "svc", policies["d"])
		s := w.active("svc")
		w.inSync(s, 3)
		time.Sleep(time.Second)
		active := s.node.self.ID
		other := map[string]string{"a": "c", "c": "a"}[active]
		require.Len(t, f.of("d"), 1)
		require.Len(t, f.of(active), 1)
		require.Empty(t, f.of(other), "it has not heard of d's policy")
		_, err = s.Handoff(t.Context(), "d")
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Len(t, f.of(other), 1)
		got := f.of("d")
		require.Len(t, got, 3, "%q", got)
		require.Contains(t, got[1], "host d, now active after host "+active)
		require.Contains(t, got[2], "Policy.Copies is 4 on host d and 3 on host "+other)
		require.Len(t, f.of(active), 1)
	})
}
