// Package loop is a mailbox whose owner has no goroutine of its own: whoever puts something in does the work if nobody else
// does. So one message crosses a host without a change of goroutines, and an idle owner costs none.
package loop

import (
	"errors"
	"math"
	"sync"
)

// Owner is the one whose work a [Loop] does, never on two goroutines at a time.
type Owner[T, L any] interface {
	// Handle does what a batch asks for. lent describes the goroutine if a caller of Work has lent it; else it is zero. After
	// an error other than ErrReleased the loop has stopped, and Handle has disposed of what it did not do.
	Handle(batch []T, lent L) error
	// Refuse disposes of items that the loop will not handle any more.
	Refuse(items []T)
	// Halted is called once, with the error of Handle, when the loop has stopped for it.
	Halted(err error)
}

// Loop takes what has come in as one batch, so that under load messages, acknowledgements and replies travel together, while
// a single one waits for nothing. T is what comes in, L describes a goroutine that is lent. It is safe for concurrent use.
type Loop[T, L any] struct {
	owner Owner[T, L]
	tasks *sync.WaitGroup // counts the goroutines at work
	pool  *sync.Pool      // of empty inboxes: an idle loop has none

	mu      sync.Mutex // guards what follows
	inbox   *[]T       // nil: empty
	running bool
	stopped bool
}

// lentRounds is how many batches a lent goroutine works through: it has something else to do, such as to read a connection.
const lentRounds = 4

// maxPooled bounds the items for which an empty inbox that is kept has room.
const maxPooled = 4096

// NewPool makes a pool of inboxes for many loops.
func NewPool[T any]() *sync.Pool { return &sync.Pool{New: func() any { return new([]T) }} }

// Init sets up a loop. If held, it does not work before Begin is called.
func (l *Loop[T, L]) Init(owner Owner[T, L], tasks *sync.WaitGroup, pool *sync.Pool, held bool) {
	l.owner, l.tasks, l.pool, l.running = owner, tasks, pool, held
	if held {
		tasks.Add(1)
	}
}

// Begin lets a loop that was held work, on the caller's goroutine for a while.
func (l *Loop[T, L]) Begin() {
	var none L
	l.run(lentRounds, none)
}

// Put leaves something for the loop, which the caller must then see to work. It is refused if the loop has stopped.
func (l *Loop[T, L]) Put(it T) {
	l.mu.Lock()
	if l.stopped {
		l.mu.Unlock()
		l.owner.Refuse([]T{it})
		return
	}
	if l.inbox == nil {
		l.inbox = l.pool.Get().(*[]T)
	}
	*l.inbox = append(*l.inbox, it)
	l.mu.Unlock()
}

// Work does on the caller's goroutine what there is to do, if nobody does it, for a few batches.
func (l *Loop[T, L]) Work(lent L) {
	l.mu.Lock()
	idle := !l.running && l.inbox != nil
	if idle {
		l.running = true
		l.tasks.Add(1)
	}
	l.mu.Unlock()
	if idle {
		l.run(lentRounds, lent)
	}
}

// ErrReleased is the error of a call of Handle that Release has relieved of the loop.
var ErrReleased = errors.New("another goroutine works for the loop")

// Release relieves a call of Handle of the loop, because it may take long: another goroutine handles what has come in. The
// call must not touch what belongs to the loop any more, and return ErrReleased.
func (l *Loop[T, L]) Release() {
	var none L
	go l.run(math.MaxInt, none)
}

// Len is the number of items that wait to be handled.
func (l *Loop[T, L]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inbox == nil {
		return 0
	}
	return len(*l.inbox)
}

// Stop ends the loop after the present batch; what is left is refused.
func (l *Loop[T, L]) Stop() {
	l.mu.Lock()
	l.stopped = true
	var left []T
	if !l.running { // else run disposes of it
		left = l.takeInbox()
	}
	l.mu.Unlock()
	l.owner.Refuse(left)
}

// Discard ends a loop that was held and never began.
func (l *Loop[T, L]) Discard() {
	l.mu.Lock()
	l.running = false
	l.mu.Unlock()
	l.tasks.Done()
	l.Stop()
}

// takeInbox empties the inbox of a loop that has stopped; l.mu is held.
func (l *Loop[T, L]) takeInbox() []T {
	if l.inbox == nil {
		return nil
	}
	left := *l.inbox
	l.inbox = nil
	return left
}

func (l *Loop[T, L]) run(rounds int, lent L) {
	for n := 0; ; n++ {
		l.mu.Lock()
		if l.inbox == nil || l.stopped {
			l.running = false
			left := l.takeInbox()
			l.mu.Unlock()
			l.owner.Refuse(left)
			l.tasks.Done()
			return
		}
		if n == rounds {
			l.mu.Unlock()
			l.Release()
			return
		}
		inbox := l.inbox
		l.inbox = nil
		l.mu.Unlock()
		batch := *inbox
		switch err := l.owner.Handle(batch, lent); err {
		case nil:
		case ErrReleased:
			return
		default:
			l.halt(err)
			return
		}
		clear(batch)
		if cap(batch) <= maxPooled {
			*inbox = batch[:0]
			l.pool.Put(inbox)
		}
	}
}

func (l *Loop[T, L]) halt(err error) {
	l.mu.Lock()
	l.stopped, l.running = true, false
	left := l.takeInbox()
	l.mu.Unlock()
	l.owner.Refuse(left)
	l.owner.Halted(err)
	l.tasks.Done()
}
