package migrate

import "sync"

// hookQueue calls hooks one at a time, on a goroutine that lives only while there are some to call.
type hookQueue struct {
	node *Node

	mu      sync.Mutex // guards what follows
	queue   []func()
	running bool
	closed  bool
}

// maxHooks bounds the calls that wait for a slow hook; beyond it the oldest are forgotten.
const maxHooks = 1024

func (q *hookQueue) init(n *Node) { q.node = n }

func (q *hookQueue) call(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if len(q.queue) >= maxHooks {
		q.queue = q.queue[1:]
	}
	q.queue = append(q.queue, f)
	if !q.running {
		q.running = true
		q.node.wg.Go(q.run)
	}
}

func (q *hookQueue) run() {
	for {
		q.mu.Lock()
		if len(q.queue) == 0 || q.closed {
			q.running = false
			q.queue = nil
			q.mu.Unlock()
			return
		}
		f := q.queue[0]
		q.queue = q.queue[1:]
		q.mu.Unlock()
		f()
	}
}

func (q *hookQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
}
