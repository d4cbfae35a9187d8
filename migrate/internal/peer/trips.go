package peer

import (
	"sync"
	"time"
)

const (
	// unknownTrip is the round trip assumed for a host with which this one was never connected: a connection to it has 3 s.
	unknownTrip = 500 * time.Millisecond
	// answerTrips is how many round trips a connection and an answer may take. They take five: TCP, TLS, two hellos and the
	// call.
	answerTrips = 6
	// maxTrips bounds the hosts whose round trips are known.
	maxTrips = 1024
)

// trips holds the round trips to hosts, as measured by the last hello.
type trips struct {
	mu sync.Mutex
	of map[string]time.Duration // by host ID
}

// measured notes the round trip to a host.
func (t *trips) measured(id string, trip time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil || len(t.of) >= maxTrips {
		t.of = make(map[string]time.Duration) // they are measured again
	}
	t.of[id] = min(trip, unknownTrip)
}

// patience is the least time for a host to be connected and answer.
func (t *trips) patience(id string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	trip, ok := t.of[id]
	if !ok {
		trip = unknownTrip
	}
	return answerTrips * trip
}

// Patience is how long to wait for a host's connection and answer: at least d, and longer if the host is far, or may be
// because this one was never connected with it.
func (ls *Links) Patience(id string, d time.Duration) time.Duration {
	return max(d, ls.trips.patience(id))
}
