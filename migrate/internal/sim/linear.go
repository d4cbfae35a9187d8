package sim

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
)

// operation is a command or a read as its client saw it. The service seems to be one list of commands, to which each command
// is appended at one moment between its call and its answer, and which each read sees at such a moment. A command without an
// answer may have been executed at any moment since its call, or not at all.
type operation struct {
	call, answer int // places in the order of all that clients did
	read         bool
	session      uint64
	body         []byte
	follows      int    // the command before it in its session, which takes effect before it; -1: none
	count, sum   uint64 // the answer: how many commands were executed and, to a read, their hash
}

const unanswered = math.MaxInt

// verdict is what [linearizable] found out.
type verdict uint8

const (
	undecided verdict = iota // in as many steps
	linear
	notLinear
)

// ordered sorts operations by their calls, and tells each which one it follows.
func ordered(ops []operation) []operation {
	slices.SortFunc(ops, func(a, b operation) int { return cmp.Compare(a.call, b.call) })
	last := make(map[uint64]int)
	for i := range ops {
		o := &ops[i]
		o.follows = -1
		if o.read {
			continue
		}
		if j, ok := last[o.session]; ok {
			o.follows = j
		}
		last[o.session] = i
	}
	return ops
}

// linearizable looks for an order of [ordered] operations that agrees with all answers: depth first, as Wing and Gong do, and
// never twice from the same point, as Lowe adds. A point is the set of operations that have taken effect, and what came of
// them. If there is no such order, it returns the operation at which the longest one ends.
func linearizable(ops []operation, steps int) (v verdict, stuck *operation) {
	type point struct {
		op         int // tried last from here
		first      int // all operations before it have taken effect
		count, sum uint64
	}
	var (
		done    = make([]uint64, (len(ops)+63)/64)
		seen    = make(map[string]struct{})
		key     []byte
		left    int // operations with an answer that have not taken effect
		fewest  = unanswered
		has     = func(i int) bool { return done[i/64]&(1<<(i%64)) != 0 }
		flip    = func(i int) { done[i/64] ^= 1 << (i % 64) }
		counted = func(i int) int { return min(1, unanswered-ops[i].answer) }
	)
	for i := range ops {
		left += counted(i)
	}
	for path := []point{{op: -1}}; len(path) > 0 && left > 0; {
		p := &path[len(path)-1]
		from := p.op + 1
		if p.op >= 0 { // back from it
			flip(p.op)
			left += counted(p.op)
			if ops[p.op].read {
				from = len(ops) // It changed nothing: without it, nothing goes better.
			}
		}
		for p.first < len(ops) && has(p.first) {
			p.first++
		}
		// The next is one that was called before any that is left was answered. There is none when an answer needs a list
		// that was shorter; a read that fits comes first.
		end, last := unanswered, -1
		for i := p.first; i < len(ops) && ops[i].call < end; i++ {
			o := &ops[i]
			if has(i) || o.answer == unanswered {
				continue
			}
			if o.answer < end {
				end, last = o.answer, i
			}
			switch {
			case o.count < p.count || !o.read && o.count == p.count:
				from = len(ops)
			case o.read && o.count == p.count && o.sum == p.sum && from < len(ops):
				from = i
			}
		}
		next := point{op: -1, first: p.first}
		i := max(from, p.first)
		for ; i < len(ops) && ops[i].call < end; i++ {
			o := &ops[i]
			if has(i) || o.follows >= 0 && !has(o.follows) {
				continue
			}
			next.count, next.sum = p.count, p.sum
			if !o.read {
				next.count, next.sum = p.count+1, chain(p.sum, o.session, o.body)
			}
			if o.answer != unanswered && (o.count != next.count || o.read && o.sum != next.sum) {
				continue
			}
			flip(i)
			key = binary.LittleEndian.AppendUint64(key[:0], next.sum)
			for _, w := range done[p.first/64:] {
				key = binary.LittleEndian.AppendUint64(key, w)
			}
			if _, ok := seen[string(key)]; !ok {
				break
			}
			flip(i)
			if o.read {
				i = len(ops) - 1
			}
		}
		if i == len(ops) || ops[i].call >= end {
			if left < fewest {
				fewest, stuck = left, &ops[last]
			}
			path = path[:len(path)-1]
			continue
		}
		if steps--; steps < 0 {
			return undecided, nil
		}
		seen[string(key)] = struct{}{}
		p.op = i
		left -= counted(i)
		path = append(path, next)
	}
	if left > 0 {
		return notLinear, stuck
	}
	return linear, nil
}
