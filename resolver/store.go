package resolver

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roam-go/roam/transport"
)

const defaultMaxRecords = 1 << 16

// store is the state of a name service, common to [Memory] and [Server]. It starts goroutines only for commits to a file.
type store struct {
	gen        uint64
	maxRecords int
	limits     limits
	keyHosts   int // host IDs present for each key; 0: no limit
	allowReset func(name string, by transport.Key) bool
	save       func(changed map[string]Record) error // stores changes; nil: records are in memory only

	mu      sync.Mutex // guards the fields below; not held over I/O and callbacks
	records map[string]Record
	watches map[string]map[*watch]struct{} // by name
	hosts   map[string]presence            // by host ID
	hostsBy map[transport.Key]int          // the number of hosts by their key
	names   int                            // the number of names in all announcements
	expire  time.Time                      // no presence expires before
	queue   []change                       // changes for the next commit
	busy    bool                           // a commit is in progress, and takes the queue next
	failed  error                          // why the store cannot store changes any more
	closed  bool
	commits sync.WaitGroup
}

// watch is one waiting watcher. fire is called once, with the record or an error, and must not block.
type watch struct {
	name  string
	after uint64
	fire  func(Record, error)
}

// presence is an announcement.
type presence struct {
	host     Host
	services []string // sorted
	digest   string   // identifies the list of services
	until    time.Time
	replaced []uint64 // earlier incarnations that this one, directly or not, replaced while they were present
}

// maxReplaced is how many earlier incarnations of a host are refused.
const maxReplaced = 8

// change is a compare-and-swap in progress. done is called once, and must not block.
type change struct {
	expect uint64
	next   Record
	done   func(Record, error)
}

func newStore() *store {
	s := &store{
		gen:        newGen(),
		maxRecords: defaultMaxRecords,
		records:    make(map[string]Record),
		watches:    make(map[string]map[*watch]struct{}),
		hosts:      make(map[string]presence),
		hostsBy:    make(map[transport.Key]int),
	}
	s.limits.fill()
	return s
}

func newGen() uint64 { return 1 + rand.Uint64N(maxNumber) }

// get returns the record of a name.
func (s *store) get(name string) (Record, error) {
	if err := CheckName(name); err != nil {
		return Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return Record{}, s.failed
	}
	r, ok := s.records[name]
	if !ok {
		return Record{}, notFound(name)
	}
	return r.clone(), nil
}

// cas makes a change and calls done with the results of CompareAndSwap: before cas returns if the store has no file, else on
// a goroutine of the store when the change is in the file. Changes that wait for the file share a write.
func (s *store) cas(expect uint64, next Record, done func(Record, error)) {
	next = next.clone()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		done(Record{}, errClosed)
		return
	}
	s.queue = append(s.queue, change{expect, next, done})
	if s.busy {
		s.mu.Unlock()
		return
	}
	s.busy = true
	if s.save == nil {
		s.mu.Unlock()
		s.commit()
		return
	}
	s.commits.Go(s.commit)
	s.mu.Unlock()
}

// commit makes the changes in the queue until there are none. Only commit writes s.records.
func (s *store) commit() {
	for {
		s.mu.Lock()
		batch := s.queue
		s.queue = nil
		if len(batch) == 0 {
			s.busy = false
			s.mu.Unlock()
			return
		}
		err := s.failed
		s.mu.Unlock()

		staged := staging{records: make(map[string]Record)}
		results := make([]func(), 0, len(batch)) // the answers, to be given when the changes are stored
		for _, c := range batch {
			r, cerr := s.decide(&staged, c)
			results = append(results, func() { c.done(r, cerr) })
		}
		if err == nil && len(staged.records) > 0 && s.save != nil {
			err = s.save(staged.records)
		}
		if err != nil {
			// Answers to the other changes of the batch may depend on records that were not stored, so all get the error.
			for _, c := range batch {
				c.done(Record{}, err)
			}
			if transport.CodeOf(err) != codeRetry {
				s.fail(err) // the content of the file is unknown from here on, so nothing is acknowledged any more
			}
			continue
		}
		fired := s.apply(staged.records)
		for _, tell := range results {
			tell()
		}
		for _, w := range fired {
			w.fire(staged.records[w.name].clone(), nil)
		}
	}
}

// staging holds the records that a commit will write.
type staging struct {
	records map[string]Record
	created int // how many of them are new
}

// decide returns the answer to a change, and stages its record.
func (s *store) decide(staged *staging, c change) (Record, error) {
	next := c.next
	if err := validate(next); err != nil {
		return Record{}, err
	}
	cur, ok := staged.records[next.Name]
	if !ok {
		cur, ok = s.records[next.Name] // without the lock: only commit, which runs once at a time, writes it
	}
	switch {
	case next.Generation != 0 && next.Generation != s.gen, c.expect > cur.Version:
		return Record{}, transport.Errorf(CodeAmnesia, "resolver: service %q: a change of version %d (gen %d), but the "+
			"resolver is at version %d (gen %d): it has lost records", next.Name, c.expect, next.Generation, cur.Version, s.gen)
	case ok && cur.Version == c.expect+1 && sameProposal(cur, next):
		return cur.clone(), nil // a repeated call
	case c.expect != cur.Version:
		return cur.clone(), transport.Errorf(CodeConflict, "resolver: service %q has version %d, not %d",
			next.Name, cur.Version, c.expect)
	}
	var before *Record
	if ok {
		before = &cur
	}
	if err := legal(before, next); err != nil {
		return Record{}, err
	}
	if s.allowReset != nil && isReset(before, next) && !s.allowReset(next.Name, next.Proposer.Key) {
		return Record{}, refuse(next, "reset it: key %q has no right to", next.Proposer.Key)
	}
	if !ok {
		if len(s.records)+staged.created >= s.maxRecords {
			return Record{}, refuse(next, "create it: the resolver is full with %d services", s.maxRecords)
		}
		staged.created++
	}
	next.Generation, next.Version = s.gen, c.expect+1
	staged.records[next.Name] = next
	return next.clone(), nil
}

// apply moves staged to s.records and returns the watches that it ends.
func (s *store) apply(staged map[string]Record) []*watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	var fired []*watch
	for name, r := range staged {
		s.records[name] = r
		for w := range s.watches[name] {
			if w.after != r.Version {
				fired = append(fired, w)
				s.forget(w)
			}
		}
	}
	return fired
}

// fail ends the service of the store: every call returns err.
func (s *store) fail(err error) {
	s.mu.Lock()
	s.failed = err
	var waiting []*watch
	for _, set := range s.watches {
		for w := range set {
			waiting = append(waiting, w)
		}
	}
	clear(s.watches)
	s.mu.Unlock()
	for _, w := range waiting {
		w.fire(Record{}, err)
	}
}

// watch calls fire, now or later, unless the returned function was called before. That function may be called twice.
func (s *store) watch(name string, after uint64, fire func(Record, error)) (cancel func()) {
	w := &watch{name, after, fire}
	err := CheckName(name)
	s.mu.Lock()
	if err == nil {
		err = s.failed
	}
	r, ok := s.records[name]
	if err == nil && !(ok && r.Version != after) {
		if s.watches[name] == nil {
			s.watches[name] = make(map[*watch]struct{})
		}
		s.watches[name][w] = struct{}{}
		s.mu.Unlock()
		return func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.forget(w)
		}
	}
	s.mu.Unlock()
	fire(r.clone(), err)
	return func() {}
}

// forget removes a watch. The caller holds s.mu.
func (s *store) forget(w *watch) {
	set := s.watches[w.name]
	delete(set, w)
	if len(set) == 0 {
		delete(s.watches, w.name)
	}
}

// announce records a host's presence. The store keeps services; digest identifies the list in renew.
func (s *store) announce(h Host, services []string, digest string, ttl time.Duration) error {
	if err := CheckAnnouncement(h, services, ttl); err != nil {
		return err
	}
	slices.Sort(services)
	services = slices.Compact(services)

	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	old, ok := s.present(h.ID, now)
	if ok && old.host.Key != h.Key {
		return transport.Errorf(CodeRefused, "resolver: host %q: another process with this ID, of key %q, is present at %s: the ID "+
			"belongs to it until it withdraws or its presence expires", h.ID, old.host.Key, old.host.Addr)
	}
	if ttl == 0 {
		if ok && old.host.Same(h) { // never the presence of a later incarnation
			s.leave(h.ID)
		}
		return nil
	}
	s.sweep(now)
	replaced := old.replaced
	if ok && !old.host.Same(h) {
		// The earlier process still runs.
		if slices.Contains(replaced, h.Incarnation) {
			return transport.Errorf(CodeRefused, "resolver: host %q: another process with this ID has announced itself since, at %s",
				h.ID, old.host.Addr)
		}
		replaced = append(replaced[max(len(replaced)-maxReplaced+1, 0):len(replaced):len(replaced)], old.host.Incarnation)
	}
	if n := s.hostsBy[h.Key]; !ok && s.keyHosts > 0 && !h.Key.IsZero() && n >= s.keyHosts {
		return transport.Errorf(CodeRefused, "resolver: host %q: %d hosts of key %q are present, the limit for one key: there is "+
			"room when one withdraws or its presence expires", h.ID, n, h.Key)
	}
	if !ok && len(s.hosts) >= s.limits.hosts {
		return transport.Errorf(CodeRefused, "resolver: host %q: the resolver is full with %d hosts", h.ID, s.limits.hosts)
	}
	if n := s.names - len(old.services) + len(services); n > s.limits.names {
		return transport.Errorf(CodeRefused, "resolver: host %q: %d services announced by all hosts, more than %d",
			h.ID, n, s.limits.names)
	}
	s.names += len(services) - len(old.services)
	if !ok {
		s.hostsBy[h.Key]++
	}
	s.hosts[h.ID] = presence{h, services, digest, now.Add(ttl), replaced}
	s.expire = earlier(s.expire, now.Add(ttl))
	return nil
}

// renew extends an announcement, and reports whether there is one of that host with that digest.
func (s *store) renew(h Host, digest string, ttl time.Duration) (bool, error) {
	if err := CheckAnnouncement(h, nil, ttl); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	p, ok := s.present(h.ID, now)
	if !ok || p.host != h || p.digest != digest || ttl == 0 {
		return false, nil
	}
	p.until = now.Add(ttl)
	s.hosts[h.ID] = p
	s.expire = earlier(s.expire, p.until)
	return true, nil
}

// present returns a host's unexpired announcement. The caller holds s.mu.
func (s *store) present(id string, now time.Time) (presence, bool) {
	p, ok := s.hosts[id]
	if ok && !p.until.After(now) {
		s.leave(id)
		return presence{}, false
	}
	return p, ok
}

// leave removes a host's announcement. The caller holds s.mu.
func (s *store) leave(id string) {
	p, ok := s.hosts[id]
	if !ok {
		return
	}
	s.names -= len(p.services)
	delete(s.hosts, id)
	if s.hostsBy[p.host.Key]--; s.hostsBy[p.host.Key] == 0 {
		delete(s.hostsBy, p.host.Key)
	}
}

// sweep removes expired announcements. The caller holds s.mu.
func (s *store) sweep(now time.Time) {
	if s.expire.IsZero() || s.expire.After(now) {
		return
	}
	s.expire = time.Time{}
	for id := range s.hosts {
		if p, ok := s.present(id, now); ok {
			s.expire = earlier(s.expire, p.until)
		}
	}
}

// hostsOf returns the hosts that announced a name, ordered by ID.
func (s *store) hostsOf(name string) ([]Host, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	var found []Host
	now := time.Now()
	s.mu.Lock()
	for _, p := range s.hosts {
		if _, ok := slices.BinarySearch(p.services, name); ok && p.until.After(now) {
			found = append(found, p.host)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(found, func(a, b Host) int { return strings.Compare(a.ID, b.ID) })
	return found, nil
}

// close makes the store refuse changes, and waits for those in progress.
func (s *store) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.commits.Wait()
}

// sameProposal reports whether r is the result of next.
func sameProposal(r, next Record) bool {
	return r.Nonce == next.Nonce && r.Proposer == next.Proposer && r.Loss == next.Loss && r.Epoch == next.Epoch &&
		r.Active == next.Active && slices.Equal(r.ISR, next.ISR)
}

// clone returns a copy of r that shares no memory with it. An empty ISR becomes nil.
func (r Record) clone() Record {
	r.ISR = append([]Host(nil), r.ISR...)
	return r
}

func notFound(name string) error {
	return transport.Errorf(CodeNotFound, "resolver: no service %q", name)
}

// earlier returns the earlier of two times. A zero one means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

var errClosed = transport.Errorf(transport.CodeClosed, "resolver: closed")
