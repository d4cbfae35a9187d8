package resolver

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

var (
	hostA  = Host{ID: "host-a", Incarnation: 1, Addr: "a:1", Key: transport.Key{1}}
	hostA2 = Host{ID: "host-a", Incarnation: 2, Addr: "a:2", Key: transport.Key{1}}
	hostB  = Host{ID: "host-b", Incarnation: 1, Addr: "b:1", Key: transport.Key{2}}
	hostC  = Host{ID: "host-c", Incarnation: 1, Addr: "c:1", Key: transport.Key{3}}
	hostD  = Host{ID: "host-d", Incarnation: 1, Addr: "d:1", Key: transport.Key{4}}
)

// running is a record of a service on host a, in epoch 3 of loss 1, with b and c in sync.
func running() Record {
	return Record{Name: "backend.com", Generation: 9, Version: 5, Loss: 1, Epoch: 3, Active: hostA,
		ISR:      []Host{hostA, hostB, hostC},
		Proposer: hostA, Nonce: 7}
}

func retired() Record {
	r := running()
	r.Active, r.ISR = Host{}, nil
	return r
}

func TestCheck(t *testing.T) {
	// In each case next starts as a copy of cur, or for nil as a create by host a, proposed by host by.
	movedB, otherKeyB := hostB, hostB
	movedB.Addr, otherKeyB.Key = "b:2", transport.Key{9}
	long := strings.Repeat("x", 300)
	is := func(hs ...Host) []Host { return hs }
	cases := []struct {
		name string
		cur  func() Record
		by   Host
		edit func(r *Record)
		want string // part of the error's text, "" for a legal change
		err  error
	}{
		{"create", nil, hostA, nil, "", nil},
		{"create in a later epoch", nil, hostA, func(r *Record) { r.Epoch = 2 }, "the first epoch is 1", ErrRefused},
		{"create for another", nil, hostB, nil, "only member", ErrRefused},
		{"create with a standby", nil, hostA, func(r *Record) { r.ISR = is(hostA, hostB) }, "only member", ErrRefused},
		{"reset of a lost name", nil, hostA, func(r *Record) { r.Loss, r.Epoch = 4, 17 }, "", nil},
		{"reset of a lost name for another", nil, hostB, func(r *Record) { r.Loss = 4 }, "only member", ErrRefused},

		{"recreate", retired, hostD, func(r *Record) { r.Loss, r.Epoch, r.Active, r.ISR = 2, 4, hostD, is(hostD) }, "", nil},
		{"recreate in the old epoch", retired, hostD, func(r *Record) { r.Loss, r.Active, r.ISR = 2, hostD, is(hostD) },
			"raises each by one", ErrRefused},
		{"recreate with the old loss", retired, hostD, func(r *Record) { r.Epoch, r.Active, r.ISR = 4, hostD, is(hostD) },
			"was retired", ErrRefused},
		{"cancel of a retired service", retired, hostA, nil, "was retired", ErrRefused},

		{"cancel", running, hostA, nil, "", nil},
		{"cancel by a standby", running, hostB, nil, "a promotion raises the epoch", ErrRefused},
		{"cancel by a stranger", running, hostD, nil, "not in the in-sync set", ErrRefused},
		{"cancel by an earlier life", running, hostA2, nil, "not in the in-sync set", ErrRefused},
		{"add", running, hostA, func(r *Record) { r.ISR = is(hostA, hostB, hostC, hostD) }, "", nil},
		{"add in another order", running, hostA, func(r *Record) { r.ISR = is(hostD, hostC, hostB, hostA) }, "", nil},
		{"add oneself", running, hostD, func(r *Record) { r.ISR = is(hostA, hostB, hostC, hostD) }, "not in the in-sync set",
			ErrRefused},
		{"add by a standby", running, hostB, func(r *Record) { r.ISR = is(hostA, hostB, hostC, hostD) }, "a promotion raises",
			ErrRefused},
		{"remove", running, hostA, func(r *Record) { r.ISR = is(hostA, hostC) }, "", nil},
		{"remove two", running, hostA, func(r *Record) { r.ISR = is(hostA) }, "one member at a time", ErrRefused},
		{"remove one and add one", running, hostA, func(r *Record) { r.ISR = is(hostA, hostB, hostD) }, "one member at a time",
			ErrRefused},
		{"remove the active", running, hostA, func(r *Record) { r.ISR = is(hostB, hostC) }, "is not in the in-sync set",
			ErrInvalid},
		{"replace", running, hostA, func(r *Record) {
			r.ISR = is(hostA, Host{ID: "host-b", Incarnation: 5, Key: hostB.Key},
				hostC)
		}, "", nil},
		{"replace two", running, hostA, func(r *Record) {
			r.ISR = is(hostA, Host{ID: "host-b", Incarnation: 5}, Host{ID: "host-c", Incarnation: 5})
		}, "one member at a time", ErrRefused},
		{"replace one and remove one", running, hostA, func(r *Record) { r.ISR = is(hostA, Host{ID: "host-b", Incarnation: 5}) },
			"one member at a time", ErrRefused},
		{"replace the active", running, hostA, func(r *Record) { r.Active, r.ISR = hostA2, is(hostA2, hostB, hostC) },
			"only promotes itself", ErrRefused},
		{"renew", running, hostA, func(r *Record) { r.Epoch = 4 }, "", nil},
		{"renew at a new address", running, Host{ID: "host-a", Incarnation: 1, Addr: "a:9", Key: hostA.Key},
			func(r *Record) { r.Epoch, r.Active, r.ISR[0] = 4, r.Proposer, r.Proposer }, "", nil},
		{"renew two epochs on", running, hostA, func(r *Record) { r.Epoch = 5 }, "the active stays in its epoch", ErrRefused},
		{"renew and remove", running, hostA, func(r *Record) { r.Epoch, r.ISR = 4, is(hostA, hostB) }, "in a new epoch of its own",
			ErrRefused},
		{"renew and add", running, hostA, func(r *Record) { r.Epoch, r.ISR = 4, is(hostA, hostB, hostC, hostD) },
			"in a new epoch of its own", ErrRefused},
		{"renew and replace", running, hostA, func(r *Record) { r.Epoch, r.ISR = 4, is(hostA, hostB, hostD) },
			"in a new epoch of its own", ErrRefused},
		{"renew by a later life", running, hostA2, func(r *Record) { r.Epoch = 4 }, "not in the in-sync set", ErrRefused},
		{"hand over by the active", running, hostA, func(r *Record) { r.Active = hostB }, "only promotes itself", ErrRefused},
		{"retire", running, hostA, func(r *Record) { r.Active, r.ISR = Host{}, nil }, "", nil},
		{"retire with members", running, hostA, func(r *Record) { r.Active = Host{} }, "without an active", ErrInvalid},
		{"retire by a standby", running, hostB, func(r *Record) { r.Active, r.ISR = Host{}, nil }, "a promotion raises",
			ErrRefused},
		{"retire by a standby in a new epoch", running, hostB, func(r *Record) { r.Epoch, r.Active, r.ISR = 4, Host{}, nil },
			"only promotes itself", ErrRefused},
		{"retire in a new epoch", running, hostA, func(r *Record) { r.Epoch, r.Active, r.ISR = 4, Host{}, nil },
			"the active stays", ErrRefused},
		{"own new address", running, Host{ID: "host-a", Incarnation: 1, Addr: "a:9", Key: hostA.Key},
			func(r *Record) { r.Active, r.ISR[0] = r.Proposer, r.Proposer }, "", nil},
		{"own new key", running, Host{ID: "host-a", Incarnation: 1, Addr: "a:1", Key: hostB.Key},
			func(r *Record) { r.Active, r.ISR[0] = r.Proposer, r.Proposer }, "change its key", ErrRefused},
		{"a member's new address", running, hostA, func(r *Record) { r.ISR[1] = movedB }, "", nil},
		{"another's new address", running, hostC, func(r *Record) { r.Epoch, r.Active, r.ISR[1] = 4, hostC, movedB },
			"change the address or key of member host-b/1", ErrRefused},
		{"another's new key", running, hostA, func(r *Record) { r.ISR[1] = otherKeyB },
			"change the address or key of member host-b/1", ErrRefused},

		{"promote, keeping the old", running, hostB, func(r *Record) { r.Epoch, r.Active = 4, hostB }, "", nil},
		{"promote without the old", running, hostB, func(r *Record) { r.Epoch, r.Active, r.ISR = 4, hostB, is(hostB, hostC) }, "",
			nil},
		{"promote at a new address", running, movedB, func(r *Record) { r.Epoch, r.Active, r.ISR[1] = 4, movedB, movedB }, "",
			nil},
		{"promote with another's key", running, otherKeyB, func(r *Record) {
			r.Epoch, r.Active, r.ISR[1] = 4, otherKeyB,
				otherKeyB
		}, "change its key", ErrRefused},
		{"promote without a third", running, hostB, func(r *Record) { r.Epoch, r.Active, r.ISR = 4, hostB, is(hostA, hostB) },
			"only the old active may be left out", ErrRefused},
		{"promote and add", running, hostB, func(r *Record) {
			r.Epoch, r.Active, r.ISR = 4, hostB,
				is(hostA, hostB, hostC, hostD)
		}, "only the active adds", ErrRefused},
		{"promote and replace", running, hostB, func(r *Record) { r.Epoch, r.Active, r.ISR = 4, hostB, is(hostA2, hostB, hostC) },
			"only the active adds", ErrRefused},
		{"promote two epochs on", running, hostB, func(r *Record) { r.Epoch, r.Active = 5, hostB }, "raises the epoch by one",
			ErrRefused},
		{"promote another", running, hostB, func(r *Record) { r.Epoch, r.Active = 4, hostC }, "only promotes itself", ErrRefused},
		{"promote a stranger", running, hostD, func(r *Record) {
			r.Epoch, r.Active, r.ISR = 4, hostD,
				is(hostA, hostB, hostC, hostD)
		}, "not in the in-sync set", ErrRefused},
		{"promote a later life", running, hostA2, func(r *Record) {
			r.Epoch, r.Active, r.ISR = 4, hostA2,
				is(hostA2, hostB, hostC)
		}, "not in the in-sync set", ErrRefused},

		{"reset", running, hostD, func(r *Record) { r.Loss, r.Epoch, r.Active, r.ISR = 2, 4, hostD, is(hostD) }, "", nil},
		{"reset by the active", running, hostA, func(r *Record) { r.Loss, r.Epoch, r.ISR = 2, 4, is(hostA) }, "", nil},
		{"reset in the old epoch", running, hostD, func(r *Record) { r.Loss, r.Active, r.ISR = 2, hostD, is(hostD) },
			"raises each by one", ErrRefused},
		{"reset by two", running, hostD, func(r *Record) { r.Loss, r.Epoch, r.Active, r.ISR = 3, 4, hostD, is(hostD) },
			"raises each by one", ErrRefused},
		{"reset with a member", running, hostA, func(r *Record) { r.Loss, r.Epoch, r.ISR = 2, 4, is(hostA, hostB) }, "only member",
			ErrRefused},
		{"reset for another", running, hostD, func(r *Record) { r.Loss, r.Epoch, r.Active, r.ISR = 2, 4, hostA, is(hostA) },
			"only member", ErrRefused},
		{"restore", running, hostB, func(r *Record) { r.Epoch, r.Active, r.ISR = 19, hostB, is(hostA, hostB) }, "", nil},
		{"restore with a higher loss", running, hostD, func(r *Record) { r.Loss, r.Epoch, r.Active, r.ISR = 9, 40, hostD, is(hostD) }, "", nil},
		{"restore for another", running, hostB, func(r *Record) { r.Epoch = 19 }, "from epoch 3 to 19", ErrRefused},
		{"restore too near", running, hostB, func(r *Record) { r.Epoch, r.Active = 18, hostB }, "from epoch 3 to 18", ErrRefused},
		{"restore of a lower loss", running, hostB, func(r *Record) { r.Loss, r.Epoch, r.Active = 0, 40, hostB }, "raises each by one", ErrRefused},
		{"restore without a record", nil, hostB, func(r *Record) { r.Epoch, r.Active, r.ISR = 16, hostB, is(hostA, hostB) }, "", nil},
		{"lower the loss", running, hostA, func(r *Record) { r.Loss = 0 }, "raises each by one", ErrRefused},

		{"another name", running, hostA, func(r *Record) { r.Name = "other.com" }, "change the name", ErrRefused},
		{"no name", nil, hostA, func(r *Record) { r.Name = "" }, "has 0 bytes, not 1..253", ErrInvalid},
		{"a long name", nil, hostA, func(r *Record) { r.Name = long }, "has 300 bytes, not 1..253", ErrInvalid},
		{"a space in a name", nil, hostA, func(r *Record) { r.Name = "a b" }, "contains ' '", ErrInvalid},
		{"a control in a name", nil, hostA, func(r *Record) { r.Name = "a\x00" }, `contains '\x00'`, ErrInvalid},
		{"a line separator in a name", nil, hostA, func(r *Record) { r.Name = "a\u2028" }, `contains '\u2028'`, ErrInvalid},
		{"bytes for a name", nil, hostA, func(r *Record) { r.Name = "a\xff" }, "is not UTF-8", ErrInvalid},
		{"a name of any script", nil, hostA, func(r *Record) { r.Name = "чат.example/комната-1" }, "", nil},
		{"no nonce", running, hostA, func(r *Record) { r.Nonce = 0 }, "nonce 0 is not in 1..2^53-1", ErrInvalid},
		{"a large nonce", running, hostA, func(r *Record) { r.Nonce = 1 << 53 }, "nonce", ErrInvalid},
		{"a large epoch", running, hostA, func(r *Record) { r.Epoch = 1 << 53 }, "epoch", ErrInvalid},
		{"a large loss", running, hostA, func(r *Record) { r.Loss = 1 << 53 }, "loss", ErrInvalid},
		{"no proposer", running, Host{}, nil, `by: host id "" has 0 bytes`, ErrInvalid},
		{"a long host id", nil, Host{ID: long, Incarnation: 1}, nil, "has 300 bytes, not 1..128", ErrInvalid},
		{"a long address", nil, Host{ID: "x", Incarnation: 1, Addr: long}, nil, "has 300 bytes, not 0..256", ErrInvalid},
		{"no incarnation", nil, Host{ID: "x"}, nil, "incarnation 0 is not", ErrInvalid},
		{"a large incarnation", nil, Host{ID: "x", Incarnation: 1 << 53}, nil, "incarnation", ErrInvalid},
		{"a bad member", running, hostA, func(r *Record) { r.ISR = append(r.ISR, Host{ID: "x"}) }, `isr: host "x": incarnation`,
			ErrInvalid},
		{"a member twice", running, hostA, func(r *Record) { r.ISR = append(r.ISR, hostB) }, "twice", ErrInvalid},
		{"two lives of a member", running, hostA, func(r *Record) { r.ISR = append(r.ISR, hostA2) }, "twice", ErrInvalid},
		{"too many members", running, hostA, func(r *Record) { r.ISR = make([]Host, MaxMembers+1) }, "17 hosts in the in-sync set",
			ErrInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			next := Record{Name: "backend.com", Epoch: 1, Active: hostA, ISR: is(hostA), Nonce: 8}
			if c.by.Incarnation != 1 || len(c.by.ID) != len(hostA.ID) { // The proposer itself is the malformed thing.
				next.Active, next.ISR = c.by, is(c.by)
			}
			var cur *Record
			if c.cur != nil {
				r := c.cur()
				cur, next = &r, c.cur()
			}
			next.Proposer, next.Nonce = c.by, 8
			if c.edit != nil {
				c.edit(&next)
			}
			err := Check(cur, next)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, c.err)
			require.ErrorContains(t, err, c.want)
			if next.Name != "" && c.cur != nil && c.err == ErrRefused {
				require.ErrorContains(t, err, next.Name)
				require.ErrorContains(t, err, c.by.ID)
			}
		})
	}
}

// propose draws a change that could follow cur, legal or not.
func propose(rnd *rand.Rand, cur *Record) Record {
	pool := []Host{hostA, hostA2, hostB, hostC, hostD}
	pick := func() Host { return pool[rnd.IntN(len(pool))] }
	next := Record{Name: "backend.com", Epoch: 1, Active: pick()}
	next.ISR = []Host{next.Active}
	if cur != nil {
		next = cur.clone()
	}
	next.Proposer, next.Nonce = pick(), 1+rnd.Uint64N(9)
	if rnd.IntN(2) == 0 && next.Active != (Host{}) {
		next.Proposer = next.Active
	}
	for range 1 + rnd.IntN(4) {
		switch rnd.IntN(11) {
		case 0:
			next.Loss += rnd.Uint64N(3) - 1
		case 1, 2:
			next.Epoch += rnd.Uint64N(3) - 1
		case 3, 4:
			next.Active = next.Proposer
		case 5:
			next.ISR = []Host{next.Proposer}
		case 6:
			next.ISR = append(next.ISR, pick())
		case 7:
			if n := len(next.ISR); n > 0 {
				i := rnd.IntN(n)
				next.ISR = slices.Delete(next.ISR, i, i+1)
			}
		case 8:
			if rnd.IntN(4) == 0 {
				next.Active, next.ISR = Host{}, nil
			}
		case 9: // A promotion, as long as nothing else is changed.
			if n := len(next.ISR); n > 0 {
				next.Proposer = next.ISR[rnd.IntN(n)]
				next.Epoch, next.Active = next.Epoch+1, next.Proposer
			}
		}
	}
	return next
}

// TestCheckWalk walks at random through legal changes, and asserts of each step what the fencing token promises.
func TestCheckWalk(t *testing.T) {
	kinds := make(map[string]int)
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var cur *Record
		for range 600 {
			next := propose(rnd, cur)
			if Check(cur, next) != nil {
				continue
			}
			require.NoError(t, validate(next))
			if cur == nil {
				kinds["create"]++
			} else {
				higher := next.Loss > cur.Loss || next.Loss == cur.Loss && next.Epoch > cur.Epoch
				same := next.Loss == cur.Loss && next.Epoch == cur.Epoch
				require.True(t, higher || same, "(loss, epoch) went down: %+v -> %+v", cur, next)
				require.GreaterOrEqual(t, next.Epoch, cur.Epoch)
				switch {
				case next.Loss > cur.Loss:
					kinds["reset"]++
				case !next.Active.Same(cur.Active) && next.Active != (Host{}):
					require.True(t, higher, "another active without a higher epoch: %+v -> %+v", cur, next)
					require.GreaterOrEqual(t, member(cur.ISR, next.Active), 0, "a host out of sync became active")
					kinds["promote"]++
				case next.Active == Host{}:
					kinds["retire"]++
				case higher:
					require.Equal(t, next.Proposer, next.Active)
					kinds["renew"]++
				default:
					require.True(t, same)
					kinds["members"]++
				}
			}
			c := next.clone()
			cur = &c
		}
	}
	for _, kind := range []string{"create", "reset", "promote", "retire", "members", "renew"} {
		require.Greater(t, kinds[kind], 20, "the walk hardly met this kind of change: %v", kinds)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		rnd := rand.New(rand.NewPCG(a, b))
		cur := running()
		next := propose(rnd, &cur)
		next.Name = string(rune(a)) + next.Name
		if Check(&cur, next) == nil {
			require.NoError(t, validate(next))
		}
	})
}

func TestHostString(t *testing.T) {
	h := Host{ID: "a", Incarnation: 4711, Addr: "127.0.0.1:4711", Key: transport.Key{1}}
	require.Equal(t, "a at 127.0.0.1:4711", fmt.Sprint(h))
	require.Equal(t, "[a at 127.0.0.1:4711 no host]", fmt.Sprintf("%v", []Host{h, {}}))
	require.Contains(t, fmt.Sprintf("%+v", Record{Active: h}), "Active:a at 127.0.0.1:4711 ")
	require.Equal(t, "a", fmt.Sprint(Host{ID: "a", Incarnation: 4711}))
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"s", "backend.com", "a/b:c?d", "größe.例え", strings.Repeat("n", maxName)} {
		require.NoError(t, CheckName(good))
	}
	for bad, why := range map[string]string{
		"": "has 0 bytes, not 1..253", strings.Repeat("n",
			maxName+1): "has 254 bytes", "a b": "contains ' '", "a\u00a0b": "contains",
		"a\tb": "contains", "a\xff": "is not UTF-8", "a\u200b": "contains",
	} {
		err := CheckName(bad)
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, "resolver: service name ")
		require.ErrorContains(t, err, why)
	}
}
