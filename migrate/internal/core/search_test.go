package core

import (
	"flag"
	"hash/maphash"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roam-go/roam/resolver"
)

var (
	searchStates   = flag.Int("search.states", 300_000, "TestSearch: stop after this many states")
	searchEntries  = flag.Int("search.entries", 1, "TestSearch: number of commands")
	searchCrashes  = flag.Int("search.crashes", 1, "TestSearch: number of restarts")
	searchTimeouts = flag.Int("search.timeouts", 2, "TestSearch: number of timeouts")
	searchHandoffs = flag.Int("search.handoffs", 1, "TestSearch: number of handoffs")
	searchReads    = flag.Int("search.reads", 1, "TestSearch: number of reads")
	searchEpoch    = flag.Uint64("search.epoch", 3, "TestSearch: the last epoch")
	searchMin      = flag.Int("search.min", 0, "TestSearch: Config.MinInSync")
	searchStandbys = flag.Int("search.standbys", 1, "TestSearch: Config.Standbys")
	searchSlow     = flag.Int("search.slow", 1, "TestSearchSlow: number of times that a service does not apply entries at once")
	searchForgets  = flag.Int("search.forgets", 1, "TestSearchForgetful: number of times that the resolver loses the record")
	searchNet      = flag.Int("search.net", 3, "TestSearch: messages in flight on one link, not counting lost ones")
)

// TestSearch explores breadth first every behavior of three hosts, a resolver and a network, within the bounds given by the
// flags. A message arrives at any later time or never, but not before an earlier one on the same link. A host's timers fire
// at any time. The resolver makes a proposed change at any later time, and its answer arrives at any time after that. The
// first state has a serving host and a standby.
//
// A state refers to its parts by number: there are few different states of single hosts, and few messages. The search takes
// each step of a single host once. 128-bit hashes identify states.
func TestSearch(t *testing.T) {
	newSearch(t).report(*searchStates)
}

// TestSearchStores is the same search with stores. A store writes everything that it has received, atomically, at any later
// time or never. A restarted process continues from what its store has written, with the same incarnation.
func TestSearchStores(t *testing.T) {
	x := newSearch(t)
	x.stores = true
	x.report(*searchStates)
}

// TestSearchSlow is the search with services that take time: a host may apply committed entries at any later time or never,
// and until then none that follow. Captures of a snapshot wait as well. A host keeps no more of its log than it must.
func TestSearchSlow(t *testing.T) {
	x := newSearch(t)
	x.slow = *searchSlow
	x.report(*searchStates)
}

// TestSearchSlowStores is TestSearchSlow with stores.
func TestSearchSlowStores(t *testing.T) {
	x := newSearch(t)
	x.slow, x.stores = *searchSlow, true
	x.report(*searchStates)
}

// TestSearchForgetful is the search with a resolver that loses the record at any time. A host that asks the others gets the
// answers of any of them, as of one moment, at any time after that. There are no commands, handoffs, reads and restarts, so
// that the search gets deep enough: what is committed are the first entries of epochs.
func TestSearchForgetful(t *testing.T) {
	x := newSearch(t)
	x.forgets = *searchForgets
	x.entries, x.crashes, x.handoffs, x.reads = 0, 0, 0, 0
	x.report(*searchStates)
}

// TestSearchForgetfulStores is TestSearchForgetful with stores, and restarts.
func TestSearchForgetfulStores(t *testing.T) {
	x := newSearch(t)
	x.forgets, x.stores = *searchForgets, true
	x.entries, x.handoffs, x.reads = 0, 0, 0
	x.report(*searchStates)
}

func (x *search) report(states int) {
	t := x.t
	began := time.Now()
	x.run(states)
	t.Logf("%d states, depth %d, %d not explored, %d states of hosts, %d messages, %d steps of hosts, %v",
		len(x.parents), x.depth, x.left, len(x.nodes), len(x.msgs), len(x.memo), time.Since(began).Round(time.Millisecond))
}

const (
	searchHosts = 3
	searchJump  = time.Hour // more than any timer
)

// search is the state of a search.
type search struct {
	t     *testing.T
	seeds [2]maphash.Seed
	buf   []byte

	stores bool
	slow   int // how often a service may leave entries for later
	// How often each of these may happen.
	entries, crashes, handoffs, reads int

	forgets  int     // how often the resolver may lose the record
	nodes    []*Core // the states of single hosts
	disks    []State // the stores of those
	nodeIDs  map[[2]uint64]uint32
	msgs     []searchMsg
	msgIDs   map[[2]uint64]uint32
	recs     []resolver.Record
	recIDs   map[string]uint32
	gone     uint32     // no record
	logs     [][]uint64 // committed logs: the epochs of their entries
	logIDs   map[string]uint32
	memo     map[searchStep]*searchResult
	seen     map[[2]uint64]struct{}
	parents  []searchParent
	depth    int
	left     int
	describe bool
	names    []string
}

type searchParent struct {
	state  uint32
	action uint16
}

// searchState is the state of the whole system.
type searchState struct {
	id                                                     uint32
	node                                                   [searchHosts]uint32
	rec, log, last                                         uint32 // last: the record with the highest term so far
	entries, crashes, timeouts, handoffs, reads, slow, inc uint8
	forgets                                                uint8    // also the resolver's generation
	net                                                    []uint32 // messages in flight, by link, then in the order of sending
}

// searchMsg is a message in flight: to a host, to the resolver with a change, back with the answer, or the answers of other
// hosts.
type searchMsg struct {
	to     int
	inc    uint64
	msg    *Msg
	cas    *CAS     // the change that host to proposes, or that the answer is for
	answer *CASDone // without a nonce: equal changes have equal answers
	heard  *Answers // the answers to an inquiry of host to
	text   string
	link   int
}

func newSearch(t *testing.T) *search {
	return &search{
		t: t, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		nodeIDs: make(map[[2]uint64]uint32), msgIDs: make(map[[2]uint64]uint32), recIDs: make(map[string]uint32),
		entries: *searchEntries, crashes: *searchCrashes, handoffs: *searchHandoffs, reads: *searchReads,
		logIDs: make(map[string]uint32), memo: make(map[searchStep]*searchResult), seen: make(map[[2]uint64]struct{}),
	}
}

func searchHost(i int, inc uint64) resolver.Host {
	return resolver.Host{ID: string(rune('a' + i)), Incarnation: inc}
}

func (x *search) fresh(i int, inc uint64) *Core {
	cfg := Config{Name: "svc", Standbys: *searchStandbys, MinInSync: *searchMin, Durable: x.stores, NoProbes: true}
	if x.slow > 0 {
		cfg.KeepBytes = 1
	}
	return New(searchHost(i, inc), cfg)
}

// start is the first state: the service on a, b in sync, no message in flight.
func (x *search) start() searchState {
	rec := resolver.Record{
		Name: "svc", Generation: x.generation(searchState{}), Version: 1, Epoch: 1, Active: searchHost(0, 1), Proposer: searchHost(0, 1), Nonce: 1,
		ISR: []resolver.Host{searchHost(0, 1), searchHost(1, 1)},
	}
	s := searchState{}
	for i := range searchHosts {
		c := x.fresh(i, 1)
		c.now = searchJump
		if i < 2 {
			c.hasState, c.rec, c.role, c.term = true, rec, Standby, Term{0, 1}
			c.log.append(Entry{Index: 1, Epoch: 1, Kind: EpochStart})
			c.commit, c.emitted, c.applied = 1, 1, 1
			c.standby.leader, c.standby.heard, c.standby.matched = rec.Active, c.now, 1
		}
		if i == 0 {
			c.role = Serving
			c.standby = standbyState{}
			c.active = activeState{epochStart: 1, round: 1, nextBeat: c.now + 1, nextSeek: c.now + 1}
			p := c.addPeer(searchHost(1, 1))
			p.member, p.stage, p.match, p.next, p.round = true, streaming, 1, 2, 1
		}
		if v := c.saving; v != nil {
			v.meta, v.givenIndex, v.durable = c.meta(), c.log.last(), c.log.last()
		}
		s.node[i] = x.internNode(c, c.written())
	}
	s.rec = x.internRec(rec)
	s.last = s.rec
	x.gone = x.internRec(resolver.Record{})
	s.log = x.internLog([]uint64{1})
	return s
}

// run searches until no state is new, or limit states are seen.
func (x *search) run(limit int) {
	first := x.start()
	x.parents = append(x.parents, searchParent{})
	level := []searchState{first}
	for ; len(level) > 0 && len(x.parents) < limit; x.depth++ {
		var next []searchState
		for i := range level {
			s := &level[i]
			n := uint16(0)
			x.each(*s, func(to searchState, problem string) {
				n++
				if problem != "" {
					x.t.Fatalf("%s, after\n%s", problem, x.trace(s.id, n-1))
				}
				k := x.stateKey(&to)
				if _, ok := x.seen[k]; ok {
					return
				}
				x.seen[k] = struct{}{}
				to.id = uint32(len(x.parents))
				x.parents = append(x.parents, searchParent{s.id, n - 1})
				next = append(next, to)
			})
			if len(x.parents) >= limit {
				x.left = len(level) - i + len(next)
				return
			}
		}
		level = next
	}
}

// trace lists the actions that lead to a state, then the last action.
func (x *search) trace(id uint32, last uint16) string {
	path := []uint16{last}
	for id != 0 {
		path = append(path, x.parents[id].action)
		id = x.parents[id].state
	}
	slices.Reverse(path)
	s := x.start()
	x.describe = true
	var lines []string
	for _, action := range path {
		var n uint16
		var to searchState
		x.names = x.names[:0]
		x.each(s, func(next searchState, problem string) {
			if n == action {
				to = next
			}
			n++
		})
		lines = append(lines, x.names[action])
		s = to
	}
	x.describe = false
	return strings.Join(lines, "\n")
}
