package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// text is what a client says: who it is, and the number of its message.
func text(client string, n int) string { return client + "#" + strconv.Itoa(n) }

func parseText(s string) (client string, n int, ok bool) {
	client, number, found := strings.Cut(s, "#")
	n, err := strconv.Atoi(number)
	return client, n, found && err == nil && n > 0
}

// tally counts what the clients report. It believes nobody else.
type tally struct {
	clients []string
	counts  []counts
	foreign int // texts that nobody sent
	epochs  map[uint64]*epoch
	order   []uint64 // the epochs as they were first reported
}

// counts is what one client sent and saw.
type counts struct {
	sent  int
	acked []bool // by number, from 1
	acks  int

	of         [][]int // how often each message was seen, by sender and number
	highest    []int   // by sender
	delivered  int     // different messages that were acknowledged and seen
	duplicated int
	reordered  int
}

// epoch is what clients told of a move.
type epoch struct {
	planned bool // at least one was told to move
	pauses  []time.Duration
}

func newTally(clients []string) *tally {
	t := &tally{clients: clients, counts: make([]counts, len(clients)), epochs: make(map[uint64]*epoch)}
	for i := range t.counts {
		t.counts[i].of = make([][]int, len(clients))
		t.counts[i].highest = make([]int, len(clients))
	}
	return t
}

// add takes a report of a client.
func (t *tally) add(client string, r report) error {
	i := slices.Index(t.clients, client)
	if i < 0 {
		return fmt.Errorf("a report from %q, who is no client", client)
	}
	t.counts[i].sent = max(t.counts[i].sent, r.Sent)
	for _, n := range r.Acked {
		t.ack(i, n)
	}
	for _, s := range r.Seen {
		from, n, ok := parseText(s)
		if j := slices.Index(t.clients, from); ok && j >= 0 {
			t.see(i, j, n)
		} else {
			t.foreign++
		}
	}
	if m := r.Moved; m != nil {
		e := t.epochs[m.Epoch]
		if e == nil {
			e = &epoch{}
			t.epochs[m.Epoch] = e
			t.order = append(t.order, m.Epoch)
		}
		e.planned = e.planned || m.Planned
		e.pauses = append(e.pauses, m.Pause)
	}
	return nil
}

// ack notes that message n of client j was acknowledged.
func (t *tally) ack(j, n int) {
	c := &t.counts[j]
	c.acked = grown(c.acked, n)
	if c.acked[n] {
		return
	}
	c.acked[n] = true
	c.acks++
	for i := range t.counts { // some have seen it already
		if of := t.counts[i].of[j]; n < len(of) && of[n] > 0 {
			t.counts[i].delivered++
		}
	}
}

// see notes that client i saw message n of client j.
func (t *tally) see(i, j, n int) {
	c := &t.counts[i]
	c.of[j] = grown(c.of[j], n)
	c.of[j][n]++
	if c.of[j][n] > 1 {
		c.duplicated++
		return
	}
	if acked := t.counts[j].acked; n < len(acked) && acked[n] {
		c.delivered++
	}
	if n < c.highest[j] {
		c.reordered++
	}
	c.highest[j] = max(c.highest[j], n)
}

// grown returns s with a place for index n.
func grown[T any](s []T, n int) []T {
	if n < len(s) {
		return s
	}
	return append(s, make([]T, n+1-len(s))...)
}

// result is the table at the end, for one client or for all.
type result struct {
	Sent         int    `json:"sent"`
	Acknowledged int    `json:"acknowledged"`
	Delivered    int    `json:"delivered"`  // different messages, of those acknowledged, that were seen
	Lost         int    `json:"lost"`       // acknowledged and not seen
	Duplicated   int    `json:"duplicated"` // seen once more than once
	Reordered    int    `json:"reordered"`  // seen after a later one of the same sender
	Moves        int    `json:"moves"`
	Failovers    int    `json:"failovers"`
	Pause        pauses `json:"pause_ms"`
}

type pauses struct {
	Median  float64 `json:"median"`
	Longest float64 `json:"longest"`
}

// clean reports whether every promise was kept.
func (r result) clean() bool { return r.Lost == 0 && r.Duplicated == 0 && r.Reordered == 0 }

// client is the result for what one client sent and saw.
func (t *tally) client(i int) result {
	c := &t.counts[i]
	r := result{
		Sent: c.sent, Acknowledged: c.acks, Delivered: c.delivered, Duplicated: c.duplicated, Reordered: c.reordered,
		Lost: -c.delivered,
	}
	for j := range t.counts { // everything that was acknowledged is for everybody
		r.Lost += t.counts[j].acks
	}
	return r
}

// all is the sum over the clients, and what they told of moves.
func (t *tally) all() result {
	r := result{Duplicated: t.foreign} // what nobody sent was made up on the way
	for i := range t.clients {
		c := t.client(i)
		r.Sent += c.Sent
		r.Acknowledged += c.Acknowledged
		r.Delivered += c.Delivered
		r.Lost += c.Lost
		r.Duplicated += c.Duplicated
		r.Reordered += c.Reordered
	}
	var all []time.Duration
	for _, e := range t.epochs {
		if e.planned {
			r.Moves++
		} else {
			r.Failovers++
		}
		all = append(all, e.pauses...)
	}
	r.Pause = summary(all)
	return r
}

// summary is in milliseconds, to the microsecond.
func summary(all []time.Duration) pauses {
	if len(all) == 0 {
		return pauses{}
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	n := len(all)
	return pauses{Median: ms((all[(n-1)/2] + all[n/2]) / 2), Longest: ms(all[n-1])}
}

// table is the result for people.
func (t *tally) table() string {
	all := t.all()
	var b strings.Builder
	row := func(title string, value func(result) int) {
		fmt.Fprintf(&b, "%-14s", title)
		for i := range t.clients {
			fmt.Fprintf(&b, "%10d", value(t.client(i)))
		}
		fmt.Fprintf(&b, "%10d\n", value(all))
	}
	fmt.Fprintf(&b, "%-14s", "")
	for _, c := range t.clients {
		fmt.Fprintf(&b, "%10s", c)
	}
	fmt.Fprintf(&b, "%10s\n", "all")
	row("sent", func(r result) int { return r.Sent })
	row("acknowledged", func(r result) int { return r.Acknowledged })
	row("delivered", func(r result) int { return r.Delivered })
	row("lost", func(r result) int { return r.Lost })
	row("doubled", func(r result) int { return r.Duplicated })
	row("out of order", func(r result) int { return r.Reordered })
	fmt.Fprintf(&b, "\n%s", plural(all.Moves, "move", "moves"))
	if all.Failovers > 0 {
		fmt.Fprintf(&b, " and %s", plural(all.Failovers, "failover", "failovers"))
	}
	if all.Moves+all.Failovers > 0 {
		fmt.Fprintf(&b, "; pause: median %.1f ms, longest %.1f ms", all.Pause.Median, all.Pause.Longest)
	}
	b.WriteByte('\n')
	return b.String()
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
