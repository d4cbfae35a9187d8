package sim

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// In these histories command 21 is the first of session 2.
func did(call, answer int, command byte, count uint64) operation {
	return operation{call: call, answer: answer, session: uint64(command / 10), body: []byte{command}, count: count}
}

func lost(call int, command byte) operation { return did(call, unanswered, command, 0) }

func saw(call, answer int, commands ...byte) operation {
	o := operation{call: call, answer: answer, read: true, count: uint64(len(commands))}
	for _, c := range commands {
		o.sum = chain(o.sum, uint64(c/10), []byte{c})
	}
	return o
}

func TestLinearizable(t *testing.T) {
	for _, test := range []struct {
		name string
		want verdict
		ops  []operation
	}{
		{"nothing", linear, nil},
		{"one after the other", linear, []operation{did(1, 2, 11, 1), saw(3, 4, 11), did(5, 6, 21, 2), saw(7, 8, 11, 21)}},
		{"at once, in either order", linear, []operation{did(1, 4, 11, 2), did(2, 3, 21, 1), saw(5, 6, 21, 11)}},
		{"a read beside a command sees it or not", linear, []operation{did(1, 6, 11, 1), saw(2, 3), saw(4, 5, 11)}},
		{"what had no answer was done", linear, []operation{lost(1, 11), saw(2, 3, 11), did(4, 5, 21, 2)}},
		{"what had no answer was not done", linear, []operation{lost(1, 11), saw(2, 3), did(4, 5, 21, 1), saw(6, 7, 21)}},
		{"what had no answer was done later", linear, []operation{lost(1, 11), saw(2, 3), did(4, 5, 21, 1), saw(6, 7, 21, 11)}},
		{"some of a session's last commands were done", linear,
			[]operation{lost(1, 11), lost(2, 12), lost(3, 13), did(4, 5, 21, 3), saw(6, 7, 11, 12, 21), saw(8, 9, 11, 12, 21, 13)}},

		{"a stale read", notLinear, []operation{did(1, 2, 11, 1), saw(3, 4)}},
		{"a read goes back", notLinear, []operation{did(1, 6, 11, 1), saw(2, 3, 11), saw(4, 5)}},
		{"a read of what was not asked for yet", notLinear, []operation{saw(1, 2, 11), did(3, 4, 11, 1)}},
		{"a command that was acknowledged is gone", notLinear, []operation{did(1, 2, 11, 1), did(3, 4, 21, 1)}},
		{"two commands at one place", notLinear, []operation{did(1, 4, 11, 1), did(2, 3, 21, 1)}},
		{"a command was done twice", notLinear, []operation{did(1, 2, 11, 1), did(3, 4, 21, 3)}},
		{"a later command came first", notLinear, []operation{did(1, 2, 11, 2), did(3, 4, 21, 1)}},
		{"reads disagree about the order", notLinear,
			[]operation{did(1, 8, 11, 1), did(2, 9, 21, 2), saw(3, 4, 11, 21), saw(5, 6, 21, 11)}},
		{"what had no answer was done twice", notLinear, []operation{lost(1, 11), saw(2, 3, 11), did(4, 5, 21, 3)}},
		{"what had no answer was undone", notLinear, []operation{lost(1, 11), saw(2, 3, 11), saw(4, 5)}},
		{"a session's second command without its first", notLinear, []operation{lost(1, 11), lost(2, 12), saw(3, 4, 12)}},
		{"what had no answer was done before it was asked for", notLinear,
			[]operation{did(1, 2, 11, 2), lost(3, 21), saw(4, 5, 21, 11)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, stuck := linearizable(ordered(test.ops), 10_000)
			require.Equal(t, test.want, v)
			require.Equal(t, test.want == notLinear, stuck != nil)
		})
	}
	v, _ := linearizable(ordered([]operation{did(1, 2, 11, 1)}), 0)
	require.Equal(t, undecided, v)
}

// TestLinearizableAgrees compares the search with one that tries all orders, on small histories that are partly wrong.
func TestLinearizableAgrees(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	counts := make(map[verdict]int)
	for range 20_000 {
		ops := randomHistory(rng)
		want := notLinear
		if anyOrder(ops, make([]bool, len(ops)), 0, 0) {
			want = linear
		}
		v, _ := linearizable(ops, 100_000)
		require.Equal(t, want, v, "%+v", ops)
		counts[v]++
	}
	require.Greater(t, counts[linear], 3000)
	require.Greater(t, counts[notLinear], 3000)
}

// randomHistory is of up to 7 operations of 3 sessions that happen at some moment between call and answer, or not, with an
// answer now and then that is wrong.
func randomHistory(rng *rand.Rand) []operation {
	type moment struct {
		at int
		o  *operation
	}
	var ops []operation
	busy := make(map[uint64]int)
	for n := 2 + rng.IntN(6); len(ops) < n; {
		s := uint64(rng.IntN(3))
		o := operation{call: busy[s] + 1 + rng.IntN(30), session: s, read: rng.IntN(3) == 0, body: []byte{byte(len(ops))}}
		o.answer = o.call + 1 + rng.IntN(60)
		busy[s] = o.call + rng.IntN(60) // the next may begin before this one ends
		ops = append(ops, o)
	}
	ops = ordered(ops)
	var at []moment
	last := make(map[uint64]int)
	for i := range ops {
		o := &ops[i]
		m := o.call + rng.IntN(o.answer-o.call)
		if !o.read {
			m = max(m, last[o.session]+1)
			last[o.session] = m
			o.answer = max(o.answer, m+1)
		}
		at = append(at, moment{m, o})
	}
	slices.SortStableFunc(at, func(a, b moment) int { return a.at - b.at })
	var count, sum uint64
	gone := make(map[uint64]bool) // a session's commands are not executed any more
	for _, m := range at {
		switch o := m.o; {
		case o.read:
			o.count, o.sum = count, sum
		case gone[o.session] || rng.IntN(6) == 0:
			gone[o.session] = true
			o.answer = unanswered
		default:
			count, sum = count+1, chain(sum, o.session, o.body)
			if o.count = count; rng.IntN(6) == 0 {
				o.answer = unanswered
			}
		}
	}
	if o := &ops[rng.IntN(len(ops))]; rng.IntN(2) == 0 {
		switch rng.IntN(3) {
		case 0:
			o.count += uint64(rng.IntN(3)) - 1
		case 1:
			o.sum++
		case 2:
			if o.answer != unanswered {
				o.answer = o.call + 1
			}
		}
	}
	return ops
}

// anyOrder tries every order.
func anyOrder(ops []operation, done []bool, count, sum uint64) bool {
	end, left := unanswered, false
	for i, o := range ops {
		if !done[i] && o.answer != unanswered {
			end, left = min(end, o.answer), true
		}
	}
	if !left {
		return true
	}
	for i, o := range ops {
		if done[i] || o.call >= end || o.follows >= 0 && !done[o.follows] {
			continue
		}
		c, s := count, sum
		if !o.read {
			c, s = count+1, chain(sum, o.session, o.body)
		}
		if o.answer != unanswered && (o.count != c || o.read && o.sum != s) {
			continue
		}
		done[i] = true
		if anyOrder(ops, done, c, s) {
			return true
		}
		done[i] = false
	}
	return false
}
