package migrate

import (
	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/migrate/internal/loop"
)

// settle executes everything that the core has requested. If the service is quick and this goroutine reads a connection, it
// applies the committed entries and answers their clients right here. If that takes too long, another goroutine continues with
// the loop: then settle returns [loop.ErrReleased].
func (s *Service) settle(lender apply.Lender) error {
	for {
		if err := s.replica.Settle(); err != nil {
			return err
		}
		a := s.here
		if a == nil {
			s.lent = false
			return nil
		}
		s.here = nil
		s.board.use(a)
		if !s.node.appliers.Lend(a, lender, (*env)(s)) {
			return loop.ErrReleased
		}
		if err := s.replica.Collect(a); err != nil {
			return err
		}
	}
}

// Start leaves a to the goroutine that works for the loop, if that was lent, has no other applier to run, and the service is
// quick. Else a gets a goroutine of its own.
func (e *env) Start(a *apply.Applier) {
	if e.lent && e.here == nil && !a.Slow() {
		e.here = a
		return
	}
	e.node.appliers.Go(a)
}

// Wake has the loop collect the results of a.
func (e *env) Wake(a *apply.Applier) { e.post(item{kind: itemApplied, applier: a}) }

// Release implements [apply.Loop]: it relieves the goroutine that runs a of the loop, where the results of a are collected.
func (e *env) Release(a *apply.Applier) {
	e.loop.Put(item{kind: itemApplied, applier: a})
	e.loop.Release()
}
