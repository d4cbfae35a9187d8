//go:build unix

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// checker checks the clients' observations against an exactly-once log. Every command is unique, so that the checks take
// time linear in the number of commands, except for a sort:
//
//	(a) all observers see the same command at a position
//	(b) an acknowledged command is at the acknowledged position and nowhere else
//	(c) an unacknowledged command is in the log at most once
//	(d) a command sent after the acknowledgement of another comes after it
//	(e) a client's commands are in the order of sending
//	(f) events have no unreported gap (the clients check that; the checker compares their links)
//	(g) the log has only commands that were sent
//	(h) the hosts' states follow from the log
//	(i) a query sees all commands acknowledged before it was sent, and none sent after its answer
//	(j) there is one service, with one active host in each epoch
//
// It is safe for concurrent use.
type checker struct {
	mu      sync.Mutex          // guards what follows
	log     []event             // by position-1; a zero link means unknown
	known   int                 // number of known entries of log
	at      map[uint32][]uint64 // by client: the position of each command, by Seq-1; 0: unknown
	acks    []ack
	last    map[uint32]uint64    // by client: the position of its latest acknowledged command
	seen    map[uint32]uint64    // by observer: the latest event
	killed  map[uint32]bool      // clients that cannot report what they have sent
	epochs  map[[2]uint64]string // the active host of each Loss and epoch
	loss    uint64               // of the service; 0: not known yet
	resets  bool                 // a reset is under way, or has not been seen yet
	gaps    int
	queries int
	wrong   []string
}

func newChecker() *checker {
	return &checker{
		at: make(map[uint32][]uint64), last: make(map[uint32]uint64),
		seen: make(map[uint32]uint64), killed: make(map[uint32]bool),
		epochs: make(map[[2]uint64]string),
	}
}

// maxWrong bounds the printed violations; one is enough to fail.
const maxWrong = 20

func (k *checker) failf(pos uint64, format string, args ...any) {
	if len(k.wrong) >= maxWrong {
		return
	}
	s := fmt.Sprintf(format, args...)
	if pos > 0 {
		s += "\n" + k.around(pos)
	}
	k.wrong = append(k.wrong, s)
}

// violation records a violation found elsewhere.
func (k *checker) violation(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failf(0, format, args...)
}

func (k *checker) violations() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.wrong)
}

// around describes the log near a position, with the acknowledgements of its clients.
func (k *checker) around(pos uint64) string {
	var b strings.Builder
	const context = 5
	for p := max(pos, context+1) - context; p <= min(pos+context, uint64(len(k.log))); p++ {
		e := k.log[p-1]
		fmt.Fprintf(&b, "  %d: command %d of client %d, link %x\n", p, e.Seq, e.Client, e.Link)
	}
	n := 0
	for i := len(k.acks) - 1; i >= 0 && n < 4*context; i-- {
		if a := &k.acks[i]; a.Seq != 0 && a.Pos+context >= pos && a.Pos <= pos+context {
			fmt.Fprintf(&b, "  command %d of client %d, sent %d, acknowledged %d with %d, epoch %d\n", a.Seq, a.Client, a.Invoked,
				a.Done, a.Pos, a.Epoch)
			n++
		}
	}
	return b.String()
}

// put records the command at a position: (a), (b), (c).
func (k *checker) put(pos uint64, e event, who string, n uint32) {
	if pos == 0 || pos > 1<<40 || e.Client == 0 || e.Seq == 0 {
		k.failf(0, "%s %d saw command %d of client %d at %d, which can't be (g)", who, n, e.Seq, e.Client, pos)
		return
	}
	if n := uint64(len(k.log)); pos > n {
		k.log = append(k.log, make([]event, pos-n)...)
	}
	switch at := &k.log[pos-1]; {
	case at.Seq == 0:
		*at = e
		k.known++
	case *at != e:
		k.failf(pos, "%s %d saw command %d of client %d at %d with link %x, where others saw command %d of client %d, link %x (a)",
			who, n, e.Seq, e.Client, pos, e.Link, at.Seq, at.Client, at.Link)
		return
	default:
		return
	}
	at := k.at[e.Client]
	if n := uint32(len(at)); e.Seq > n {
		at = append(at, make([]uint64, e.Seq-n)...)
		k.at[e.Client] = at
	}
	if was := at[e.Seq-1]; was != 0 {
		k.failf(pos, "command %d of client %d is at %d and at %d (b, c)", e.Seq, e.Client, was, pos)
	}
	at[e.Seq-1] = pos
}

func (k *checker) acked(acks []ack) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range acks {
		k.acks = append(k.acks, a)
		if a.Seq == 0 {
			k.queries++
			continue
		}
		k.put(a.Pos, event{a.Ident, a.Link}, "client", a.Client)
		if last := k.last[a.Client]; a.Pos <= last {
			k.failf(a.Pos, "command %d of client %d is at %d, but the one before it at %d (e)", a.Seq, a.Client, a.Pos, last)
		}
		k.last[a.Client] = a.Pos
	}
}

func (k *checker) observed(b *eventBatch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b.Gap != 0 {
		k.gaps++
	}
	if last := k.seen[b.Observer]; b.First <= last {
		k.failf(b.First, "client %d got event %d after %d (f)", b.Observer, b.First, last)
	}
	for i, e := range b.Events {
		k.put(b.First+uint64(i), e, "listener", b.Observer)
	}
	k.seen[b.Observer] = b.First + uint64(len(b.Events)) - 1
}

// forget records that clients were killed: their commands outside the log are unknown.
func (k *checker) forget(first uint32, n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range n {
		k.killed[first+uint32(i)] = true
	}
}

// serves records that a host is active: (j).
func (k *checker) serves(host string, loss, epoch uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case loss == k.loss:
	case k.loss == 0 || k.resets && loss > k.loss:
		k.loss, k.resets = loss, false
	case loss < k.loss: // reported late, or deposed
	default:
		k.failf(0, "host %s is active in a second service: its Loss is %d, not %d (j)", host, loss, k.loss)
	}
	at := [2]uint64{loss, epoch}
	if other := k.epochs[at]; other != "" && other != host {
		k.failf(0, "hosts %s and %s are both active in epoch %d (j)", other, host, epoch)
	}
	k.epochs[at] = host
}

// expectReset records that the service is about to be reset.
func (k *checker) expectReset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.resets = true
}

// length is the number of known positions of the log.
func (k *checker) length() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return uint64(k.known)
}

// finish makes the checks that need the whole log. sent is the number of commands that each client has sent; states are the
// final states of the hosts in the in-sync set.
func (k *checker) finish(sent map[uint32]uint32, states map[string]Place) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known != len(k.log) {
		for i, e := range k.log {
			if e.Seq == 0 {
				k.failf(uint64(i+1), "nobody knows what is at %d: %d places of %d are unknown", i+1, len(k.log)-k.known, len(k.log))
				break
			}
		}
	} else {
		k.fold()
	}
	for client, at := range k.at {
		if n := uint32(len(at)); n > sent[client] && !k.killed[client] {
			k.failf(at[n-1], "command %d of client %d is in the log, but it has sent only %d (g)", n, client, sent[client])
		}
		for i := 1; i < len(at); i++ {
			if at[i] != 0 && (at[i] < at[i-1] || at[i-1] == 0) {
				k.failf(at[i], "command %d of client %d is at %d, before the one sent before it, at %d (e)", i+1, client, at[i], at[i-1])
			}
		}
	}
	for client, n := range sent {
		if got := len(k.at[client]); uint32(got) < n || slices.Contains(k.at[client], 0) {
			k.failf(0, "client %d has sent %d commands and was told that all are done, but %d are in the log (b)", client, n, got)
		}
	}
	end := Place{}
	if n := len(k.log); n > 0 {
		end = Place{uint64(n), k.log[n-1].Link}
	}
	for host, p := range states {
		if p != end {
			k.failf(end.Pos, "host %s ends with %d commands and link %x, but the log with %d and %x (h)", host, p.Pos, p.Link,
				end.Pos, end.Link)
		}
	}
	k.realTime()
}

// fold checks the links against the log.
func (k *checker) fold() {
	p := Place{}
	for i, e := range k.log {
		p = p.next(e.Ident)
		if p.Link != e.Link {
			k.failf(uint64(i+1), "the link at %d is %x, but the log gives %x (h)", i+1, e.Link, p.Link)
			return
		}
	}
}

// realTime checks (d) and (i): it walks through all requests and answers by time, and tracks the highest position that any
// client knew at each request.
func (k *checker) realTime() {
	byDone := make([]int32, len(k.acks))
	for i := range byDone {
		byDone[i] = int32(i)
	}
	byInvoked := slices.Clone(byDone)
	slices.SortFunc(byDone, func(a, b int32) int { return cmp.Compare(k.acks[a].Done, k.acks[b].Done) })
	slices.SortFunc(byInvoked, func(a, b int32) int { return cmp.Compare(k.acks[a].Invoked, k.acks[b].Invoked) })
	var (
		highest uint64
		by      *ack
	)
	done := byDone
	for _, i := range byInvoked {
		a := &k.acks[i]
		for len(done) > 0 && k.acks[done[0]].Done < a.Invoked {
			if d := &k.acks[done[0]]; d.Pos > highest {
				highest, by = d.Pos, d
			}
			done = done[1:]
		}
		switch {
		case a.Seq != 0 && a.Pos <= highest:
			k.failf(a.Pos, "command %d of client %d, sent %d, is at %d, but %d was told to client %d at %d (d)",
				a.Seq, a.Client, a.Invoked, a.Pos, highest, by.Client, by.Done)
		case a.Seq == 0 && a.Pos < highest:
			k.failf(a.Pos, "a query of client %d, sent %d, saw %d, but %d was told to client %d at %d (i)",
				a.Client, a.Invoked, a.Pos, highest, by.Client, by.Done)
		case a.Seq == 0 && a.Pos > 0 && (a.Pos > uint64(len(k.log)) || k.log[a.Pos-1].Link != a.Link):
			k.failf(a.Pos, "a query of client %d saw %d with link %x, which never was (i)", a.Client, a.Pos, a.Link)
		}
	}
}
