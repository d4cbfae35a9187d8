package core

import "fmt"

// Violation is the error of a broken invariant: a bug in this package, or a peer that breaks the protocol.
type Violation string

func (v Violation) Error() string { return "invariant broken: " + string(v) }

// Err returns the [Violation] that stopped the core, or nil. A stopped core stays as it is: Step, Propose and Applied do
// nothing, and Ready returns nothing to do, since earlier decisions may be wrong.
func (c *Core) Err() error {
	if c.err == nil {
		return nil
	}
	return *c.err
}

// violated is what assert panics with. The panic ends in [Core.stop], so that no caller of this package sees it.
type violated struct{}

// assert stops the core unless ok.
func (c *Core) assert(ok bool, format string, args ...any) {
	if !ok {
		where := fmt.Sprintf("%s: host %s, %s, %s: ", c.cfg.Name, c.self.ID, c.role, c.term)
		v := Violation(where + fmt.Sprintf(format, args...))
		c.err = &v
		panic(violated{})
	}
}

// stop ends the panic of a failed assert. Each exported method that may assert defers it. Other panics pass: only assert
// sets err.
func (c *Core) stop() {
	if c.err != nil {
		_ = recover()
		c.out = Ready{}
	}
}
