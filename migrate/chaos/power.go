//go:build unix

package main

import (
	"sync"
	"syscall"
	"time"
)

// stepPower kills all hosts at once and restarts them with their directories, in random order and after random times. The
// service must come back with all acknowledged commands.
func (r *run) stepPower() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	r.sleep(r.between(0, 200*time.Millisecond))
	f := r.fault("power cut", "all hosts", 0)
	for _, h := range r.hosts {
		h.p.signal(syscall.SIGKILL)
	}
	for _, h := range r.hosts {
		r.killHost(h)
	}
	r.rnd.Shuffle(len(r.hosts), func(i, j int) { r.hosts[i], r.hosts[j] = r.hosts[j], r.hosts[i] })
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, h := range r.hosts {
		wait := r.between(0, 300*time.Millisecond)
		wg.Go(func() {
			r.sleep(wait)
			if err := r.startHost(h, false); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return errs[0]
	}
	if !r.awaitEpoch(f.Epoch, 20*time.Second) {
		r.check.violation("the service is not back within 20 s after %s (%s)", f.String(), r.describe())
		return errStuck
	}
	return nil
}
