package resolvertest

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

func TestRules(t *testing.T) {
	RunSynctest(t, func(t *testing.T) Subject {
		m := resolver.NewMemory()
		return Subject{A: m, B: m, Key: transport.Key{1}}
	})
}

// broken is a resolver with a planted fault.
type broken struct {
	resolver.Resolver
	fault string

	mu    sync.Mutex
	stale map[string]resolver.Record
	kept  []string
	n     int
}

// faults says for each fault which rule finds it, at least.
var faults = map[string]string{
	"unknown names have an empty record":  "Get of an unknown name is ErrNotFound",
	"Get is one change behind":            "every Get that begins after a change returns it",
	"Ver is that of the proposal":         "CompareAndSwap returns the written record with Version and Generation",
	"Gen is not filled in":                "CompareAndSwap returns the written record with Version and Generation",
	"addresses are cut":                   "a record keeps every field",
	"a conflict comes without the record": "ErrConflict comes with the present record and changes nothing",
	"a conflict is written":               "ErrConflict comes with the present record and changes nothing",
	"amnesia is a conflict":               "a change of a future version or of another Generation is ErrAmnesia",
	"a resend is a conflict":              "an identical call returns the same while its change is the newest",
	"losers are told that they won":       "exactly one of several concurrent changes of a version succeeds",
	"everything is allowed":               "a change that Check forbids is ErrRefused and changes nothing",
	"an error names nobody":               "a change that Check forbids is ErrRefused and changes nothing",
	"nobody retires":                      "a service lives from its creation to its reset",
	"a service begins with Loss 0":        "a service may be created with any Loss in epoch 1",
	"a service begins in any epoch":       "a service may be created with any Loss in epoch 1",
	"a lost record begins alone":          "a restore brings a lost record back",
	"an old record is never restored":     "a restore brings a lost record back",
	"only members restore":                "a restore brings a lost record back",
	"a restore may be near":               "a restore that is too near, for another host or of a lower Loss is ErrRefused",
	"a host restores another":             "a restore that is too near, for another host or of a lower Loss is ErrRefused",
	"a restore lowers the Loss":           "a restore that is too near, for another host or of a lower Loss is ErrRefused",
	"names are not checked":               "malformed arguments are ErrInvalid",
	"records are shared":                  "records share no memory with the caller",
	"contexts are ignored":                "an ended context ends every call",
	"Watch returns at once":               "Watch waits for another version and returns at once if there is one",
	"Watch needs a record":                "Watch after 0 waits for the first record",
	"Watch waits for a higher version":    "Watch waits for another version and returns at once if there is one",
	"Watch returns the first change":      "a slow watcher gets the newest record",
	"Watch never ends":                    "Watch ends with its own context",
	"Watch serves 100":                    "every watcher gets a change",
	"hosts come in any order":             "Hosts returns the announced hosts of a name ordered by ID",
	"hosts without keys":                  "Hosts returns the announced hosts of a name ordered by ID",
	"announcements add up":                "an announcement replaces the previous one",
	"lives take turns":                    "of two incarnations at a time, the earlier one is refused",
	"a withdrawal takes any life":         "a ttl of 0 withdraws the announcement of this incarnation",
	"a withdrawal does nothing":           "a ttl of 0 withdraws the announcement of this incarnation",
	"announcements run out early":         "an announcement expires, but not early",
	"announcements last for ever":         "an announcement expires, but not early",
	"a renewal never shortens":            "announcing again extends or shortens an announcement",
	"long lists are cut":                  "a host can announce many services",
	"lists are sorted in place":           "a host can announce many services",
	"any number of services":              "more than 131,072 services in one announcement are ErrInvalid",
	"active hosts are present":            "announcements and records are independent",
}

func (b *broken) is(fault string) bool { return b.fault == fault }

func (b *broken) Get(ctx context.Context, name string) (resolver.Record, error) {
	if b.is("contexts are ignored") {
		ctx = context.WithoutCancel(ctx)
	}
	if b.is("names are not checked") && len(name) > maxName {
		return resolver.Record{}, resolver.ErrNotFound
	}
	r, err := b.Resolver.Get(ctx, name)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.is("unknown names have an empty record") && err != nil:
		return resolver.Record{}, nil
	case b.is("Get is one change behind") && b.stale[name].Version > 0,
		b.is("records are shared") && err == nil && b.stale[name].Version == r.Version:
		return b.stale[name], nil
	}
	return r, err
}

func (b *broken) CompareAndSwap(ctx context.Context, expect uint64, next resolver.Record) (resolver.Record, error) {
	cur, gerr := b.Resolver.Get(context.WithoutCancel(ctx), next.Name)
	switch {
	case b.is("addresses are cut") && len(next.Active.Addr) > 100:
		next.Active.Addr = next.Active.Addr[:100]
		next.Proposer.Addr = next.Active.Addr
		next.ISR = append([]resolver.Host{next.Active}, next.ISR[1:]...)
	case b.is("a conflict is written") && expect < cur.Version && next.Nonce == 99:
		expect = cur.Version
	case b.is("nobody retires") && gerr == nil && next.Active == (resolver.Host{}):
		return resolver.Record{}, resolver.ErrRefused
	case b.is("everything is allowed") && gerr == nil && next.Epoch == cur.Epoch+1 && next.Loss == cur.Loss:
		next.Loss++
	}
	if err := b.refuses(cur, gerr == nil, next); err != nil {
		return resolver.Record{}, err
	}
	r, err := b.Resolver.CompareAndSwap(ctx, expect, b.allows(cur, next))
	code := transport.CodeOf(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.is("Ver is that of the proposal") && err == nil && expect == 0:
		r.Version = next.Version
	case b.is("Gen is not filled in") && err == nil && expect == 0:
		r.Generation = 0
	case b.is("a conflict comes without the record") && code == resolver.CodeConflict:
		return resolver.Record{}, err
	case b.is("amnesia is a conflict") && code == resolver.CodeAmnesia:
		return cur, resolver.ErrConflict
	case b.is("a resend is a conflict") && err == nil && r.Version == cur.Version:
		return r, resolver.ErrConflict
	case b.is("losers are told that they won") && code == resolver.CodeConflict && expect+1 == r.Version:
		return r, nil
	case b.is("an error names nobody") && code == resolver.CodeRefused:
		return r, resolver.ErrRefused
	case b.is("Get is one change behind"):
		b.stale[next.Name] = cur
	case b.is("records are shared") && err == nil:
		b.stale[next.Name] = r
	case b.is("Watch returns the first change") && b.stale[next.Name].Version < 2:
		b.stale[next.Name] = r
	case b.is("active hosts are present") && err == nil:
		b.Resolver.Announce(ctx, r.Active, []string{r.Name}, time.Minute)
	}
	return r, err
}

// refuses returns an error for a legal change that the fault refuses.
func (b *broken) refuses(cur resolver.Record, exists bool, next resolver.Record) error {
	far := next.Epoch >= cur.Epoch+resolver.RestoreStep && next.Active == next.Proposer
	switch {
	case b.is("a service begins with Loss 0") && !exists && next.Loss > 0,
		b.is("a lost record begins alone") && !exists && len(next.ISR) > 1,
		b.is("an old record is never restored") && exists && far,
		b.is("only members restore") && exists && far && !slices.ContainsFunc(cur.ISR, next.Proposer.Same):
		return resolver.ErrRefused
	}
	return nil
}

// allows returns a legal change instead of an illegal one that the fault allows.
func (b *broken) allows(cur, next resolver.Record) resolver.Record {
	switch {
	case b.is("a service begins in any epoch") && cur.Version == 0,
		b.is("a restore may be near") && next.Active == next.Proposer && next.Epoch > cur.Epoch+1:
		next.Epoch += resolver.RestoreStep
	case b.is("a host restores another") && next.Epoch > 1000:
		next.Proposer = next.Active
	case b.is("a restore lowers the Loss") && next.Epoch > 1000:
		next.Loss = max(next.Loss, cur.Loss)
	}
	return next
}

func (b *broken) Watch(ctx context.Context, name string, after uint64) (resolver.Record, error) {
	b.mu.Lock()
	b.n++
	n, first := b.n, b.stale[name]
	b.mu.Unlock()
	switch {
	case b.is("Watch returns at once"):
		after = 0
	case b.is("Watch needs a record"):
		if _, err := b.Resolver.Get(ctx, name); err != nil {
			return resolver.Record{}, err
		}
	case b.is("Watch waits for a higher version") && after == 9:
		<-ctx.Done()
		return resolver.Record{}, ctx.Err()
	case b.is("Watch returns the first change") && first.Version > after:
		return first, nil
	case b.is("Watch never ends"):
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*patience)
		defer cancel()
		return b.Resolver.Watch(ctx, name, after)
	case b.is("Watch serves 100") && n > 100:
		<-ctx.Done()
		return resolver.Record{}, ctx.Err()
	}
	return b.Resolver.Watch(ctx, name, after)
}

func (b *broken) Announce(ctx context.Context, h resolver.Host, services []string, ttl time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.is("announcements add up"):
		b.kept = append(b.kept, services...)
		services = b.kept
	case b.is("a withdrawal takes any life") && ttl == 0:
		for inc := range uint64(3) {
			h.Incarnation = inc + 1
			b.Resolver.Announce(ctx, h, nil, 0)
		}
	case b.is("lives take turns") && ttl > 0:
		for inc := range uint64(3) {
			life := h
			life.Incarnation = inc + 1
			b.Resolver.Announce(ctx, life, nil, 0)
		}
	case b.is("a withdrawal does nothing") && ttl == 0:
		return nil
	case b.is("announcements run out early"):
		ttl /= 2
	case b.is("announcements last for ever") && ttl > 0:
		ttl = time.Minute
	case b.is("a renewal never shortens") && ttl < time.Minute && h.ID == "shorter":
		return nil
	case b.is("long lists are cut") && len(services) > 10_000 && len(services) <= maxServices:
		services = services[:10_000]
	case b.is("lists are sorted in place"):
		slices.Reverse(services)
	case b.is("any number of services") && len(services) > maxServices:
		services = services[:maxServices]
	}
	return b.Resolver.Announce(ctx, h, services, ttl)
}

func (b *broken) Hosts(ctx context.Context, name string) ([]resolver.Host, error) {
	hs, err := b.Resolver.Hosts(ctx, name)
	for i := range hs {
		if b.is("hosts without keys") {
			hs[i].Key = transport.Key{}
		}
	}
	if b.is("hosts come in any order") {
		slices.Reverse(hs)
	}
	return hs, err
}

// recorder is a test of which nobody hears.
type recorder struct {
	ctx      context.Context
	failures []string
	cleanups []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}
func (r *recorder) FailNow()                 { runtime.Goexit() }
func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }

// TestFindsFaults shows of each fault that its rule finds it, and that the faultless resolver passes in the same harness.
func TestFindsFaults(t *testing.T) {
	check := func(t *testing.T, fault string, r rule) (failures []string) {
		synctest.Test(t, func(t *testing.T) {
			rec := &recorder{ctx: t.Context()}
			b := &broken{Resolver: resolver.NewMemory(), fault: fault, stale: make(map[string]resolver.Record)}
			var wg sync.WaitGroup
			wg.Go(func() { r.check(newSuite(rec, Subject{A: b, B: b, Key: transport.Key{1}})) })
			wg.Wait()
			for _, f := range rec.cleanups {
				f()
			}
			failures = rec.failures
			time.Sleep(3 * patience) // What still waits gives up.
		})
		return failures
	}
	byName := make(map[string]rule)
	for _, r := range rules {
		byName[r.name] = r
		require.Empty(t, check(t, "", r), "the rule %q finds a fault where there is none", r.name)
	}
	require.Len(t, byName, len(rules), "two rules have one name")
	for _, fault := range slices.Sorted(maps.Keys(faults)) {
		t.Run(fault, func(t *testing.T) {
			r, ok := byName[faults[fault]]
			require.True(t, ok, "no rule %q", faults[fault])
			require.NotEmpty(t, check(t, fault, r), "the rule %q does not find it", r.name)
		})
	}
}
