package wire

import (
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/roam-go/roam/transport"
)

// applying counts the calls of a service's Apply that run in this process.
var applying atomic.Int64

// EnterApply and LeaveApply enclose a call of a service's Apply in [ApplyFrame].
func EnterApply() { applying.Add(1) }

// LeaveApply ends what EnterApply began.
func LeaveApply() { applying.Add(-1) }

// ApplyFrame ends the name of the function from which a service's Apply is called.
const ApplyFrame = "internal/machine.(*Machine).callApply"

// CheckOutsideApply returns an error if the caller was called by a service's Apply. There a client would wait for the very
// service that waits for it, or make a service depend on more than its commands. It costs nothing while no Apply runs in
// this process.
func CheckOutsideApply(service, method string) error {
	if applying.Load() == 0 {
		return nil
	}
	var pcs [64]uintptr
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		frames := runtime.CallersFrames(pcs[:n])
		for more := n > 0; more; {
			var f runtime.Frame
			if f, more = frames.Next(); strings.HasSuffix(f.Function, ApplyFrame) {
				return transport.Errorf(CodeForbidden, "migrate: %s of service %s was called inside an Apply, which it would wait for",
					method, service)
			}
		}
		if n < len(pcs) {
			return nil
		}
	}
}
