// Package hooks calls a user's functions one at a time and in order, without blocking the caller.
package hooks

import "sync"

// Queue runs functions in order, on a goroutine that exists only while there are some to run. Its methods are safe for
// concurrent use.
type Queue struct {
	limit int
	spawn func(f func())

	mu      sync.Mutex // guards the fields below
	pending []func()
	running bool
	closed  bool
}

// New returns a queue that starts its goroutine with spawn. With a limit above 0, a queue that holds that many functions
// drops the oldest for a new one.
func New(limit int, spawn func(f func())) *Queue { return &Queue{limit: limit, spawn: spawn} }

// Call queues f, unless the queue is closed.
func (q *Queue) Call(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if q.limit > 0 && len(q.pending) >= q.limit {
		q.pending = q.pending[1:]
	}
	q.pending = append(q.pending, f)
	if !q.running {
		q.running = true
		q.spawn(q.run)
	}
}

func (q *Queue) run() {
	for {
		q.mu.Lock()
		if len(q.pending) == 0 || q.closed {
			q.running = false
			q.pending = nil
			q.mu.Unlock()
			return
		}
		f := q.pending[0]
		q.pending = q.pending[1:]
		q.mu.Unlock()
		f()
	}
}

// Close drops the functions that have not started. It does not wait for one that is running.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.pending = nil
}
