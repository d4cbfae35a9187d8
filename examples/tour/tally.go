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
	sent    []int     // by each client
	acked   [][]bool  // by client and number, from 1
	seen    [][]count // by the client who saw, and the one who sent
	foreign int       // texts that nobody sent
	epochs  map[uint64]*epoch
	order   []uint64 // the epochs as they were first reported
}

// count is what one client saw of another.
type count struct {
	times     []int // by number
	highest   int
	reordered int
}

// epoch is what clients told of a move.
type epoch struct {
	host    string
	planned bool // at least one was told to move
	pauses  []time.Duration
}

func newTally(clients []string) *tally {
	t := &tally{
		clients: clients, sent: make([]int, len(clients)), acked: make([][]bool, len(clients)), seen: make([][]count, len(clients)),
		epochs: make(map[uint64]*epoch),
	}
	for i := range t.seen {
		t.seen[i] = make([]count, len(clients))
	}
	return t
}

// add takes a report of a client.
func (t *tally) add(client string, r report) error {
	i := slices.Index(t.clients, client)
	if i < 0 {
		return fmt.Errorf("a report from %q, who is no client", client)
	}
	t.sent[i] = max(t.sent[i], r.Sent)
	for _, n := range r.Acked {
		t.acked[i] = grown(t.acked[i], n)
		t.acked[i][n] = true
	}
	for _, s := range r.Seen {
		from, n, ok := parseText(s)
		j := slices.Index(t.clients, from)
		if !ok || j < 0 {
			t.foreign++
			continue
		}
		t.seen[i][j].see(n)
	}
	if m := r.Moved; m != nil {
		e := t.epochs[m.Epoch]
		if e == nil {
			e = &epoch{host: m.Host}
			t.epochs[m.Epoch] = e
			t.order = append(t.order, m.Epoch)
		}
		e.planned = e.planned || m.Planned
		e.pauses = append(e.pauses, m.Pause)
	}
	return nil
}

func grown[T any](s []T, n int) []T {
	if n < len(s) {
		return s
	}
	return append(s, make([]T, n+1-len(s))...)
}

func (c *count) see(n int) {
	c.times = grown(c.times, n)
	c.times[n]++
	if n < c.highest && c.times[n] == 1 {
		c.reordered++
	}
	c.highest = max(c.highest, n)
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
	r := result{Sent: t.sent[i], Acknowledged: ackedOf(t.acked[i])}
	for j, c := range t.seen[i] {
		for n, acked := range t.acked[j] {
			switch {
			case !acked:
			case n < len(c.times) && c.times[n] > 0:
				r.Delivered++
			default:
				r.Lost++
			}
		}
		for _, times := range c.times {
			r.Duplicated += max(times-1, 0)
		}
		r.Reordered += c.reordered
	}
	return r
}

func ackedOf(acked []bool) (n int) {
	for _, a := range acked {
		if a {
			n++
		}
	}
	return n
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
		fmt.Fprintf(&b, "; the pause that clients saw: median %.1f ms, longest %.1f ms", all.Pause.Median, all.Pause.Longest)
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
