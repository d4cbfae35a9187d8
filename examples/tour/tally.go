package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roam-go/roam/examples/internal/cli"
)

// text returns the text of the n-th message of a client, which identifies it.
func text(client string, n int) string { return client + "#" + strconv.Itoa(n) }

func parseText(s string) (client string, n int, ok bool) {
	client, number, found := strings.Cut(s, "#")
	n, err := strconv.Atoi(number)
	return client, n, found && err == nil && n > 0
}

// tally verifies the reports of the clients. It uses no other source.
type tally struct {
	clients []string
	counts  []counts
	foreign int // texts that no client sent
	epochs  map[uint64]*epoch
	order   []uint64 // epochs in the order of their first report
}

// counts holds what one client sent and received.
type counts struct {
	sent  int
	acked []bool // by number, from 1
	acks  int

	of         [][]int // how often each message was received, by sender and number
	highest    []int   // highest received number, by sender
	delivered  int     // distinct acknowledged messages received
	duplicated int
	reordered  int
}

// epoch holds the clients' reports of a move.
type epoch struct {
	planned bool // at least one client had notice of the move
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

// add adds a report of a client.
func (t *tally) add(client string, r report) error {
	i := slices.Index(t.clients, client)
	if i < 0 {
		return fmt.Errorf("report from unknown client %q", client)
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

// ack records that message n of client j was acknowledged.
func (t *tally) ack(j, n int) {
	c := &t.counts[j]
	c.acked = grown(c.acked, n)
	if c.acked[n] {
		return
	}
	c.acked[n] = true
	c.acks++
	for i := range t.counts { // some clients may have received it before
		if of := t.counts[i].of[j]; n < len(of) && of[n] > 0 {
			t.counts[i].delivered++
		}
	}
}

// see records that client i received message n of client j.
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

// grown returns s, extended if necessary to contain index n.
func grown[T any](s []T, n int) []T {
	if n < len(s) {
		return s
	}
	return append(s, make([]T, n+1-len(s))...)
}

// result is the final result for one client or for all.
type result struct {
	Sent         int    `json:"sent"`
	Acknowledged int    `json:"acknowledged"`
	Delivered    int    `json:"delivered"`  // distinct acknowledged messages received
	Lost         int    `json:"lost"`       // acknowledged but not received
	Duplicated   int    `json:"duplicated"` // received again
	Reordered    int    `json:"reordered"`  // received after a later message of the same sender
	Moves        int    `json:"moves"`
	Failovers    int    `json:"failovers"`
	Pause        pauses `json:"pause_ms"`

	Seconds float64 `json:"seconds"` // for which the clients have sent
}

type pauses struct {
	Median  float64 `json:"median"`
	Longest float64 `json:"longest"`
}

// clean reports whether all guarantees were kept.
func (r result) clean() bool { return r.Lost == 0 && r.Duplicated == 0 && r.Reordered == 0 }

// client returns the result for one client.
func (t *tally) client(i int) result {
	c := &t.counts[i]
	r := result{
		Sent: c.sent, Acknowledged: c.acks, Delivered: c.delivered, Duplicated: c.duplicated, Reordered: c.reordered,
		Lost: -c.delivered,
	}
	for j := range t.counts { // every client must receive every acknowledged message
		r.Lost += t.counts[j].acks
	}
	return r
}

// all returns the sum of the clients' results, with the moves.
func (t *tally) all() result {
	r := result{Duplicated: t.foreign} // counts texts that no client sent as duplicates
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

// summary returns milliseconds with microsecond resolution.
func summary(all []time.Duration) pauses {
	if len(all) == 0 {
		return pauses{}
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	n := len(all)
	return pauses{Median: ms((all[(n-1)/2] + all[n/2]) / 2), Longest: ms(all[n-1])}
}

// table formats the result for display.
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
	row("duplicated", func(r result) int { return r.Duplicated })
	row("reordered", func(r result) int { return r.Reordered })
	fmt.Fprintf(&b, "\n%s", cli.Plural(all.Moves, "move", "moves"))
	if all.Failovers > 0 {
		fmt.Fprintf(&b, " and %s", cli.Plural(all.Failovers, "failover", "failovers"))
	}
	if all.Moves+all.Failovers > 0 {
		fmt.Fprintf(&b, "; pause: median %.1f ms, longest %.1f ms", all.Pause.Median, all.Pause.Longest)
	}
	b.WriteByte('\n')
	return b.String()
}
