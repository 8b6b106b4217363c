package plugin

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Filter decides whether an event goes on: true keeps it; false drops it, which is recorded as filtered.
type Filter func(event *Event, host Host) (bool, error)

// Transform makes the requests that go out, in order; none drops the event, which is recorded as filtered.
type Transform func(event *Event, host Host) ([]*Output, error)

// Keep asks a filter: every way in which it can end is an answer or a failure.
func Keep(filter Filter, event *Event, host Host) (kept bool, failure *Failure) {
	defer recovered(host, &failure)
	kept, err := filter(event, host)
	return kept, failed(err)
}

// Run asks a transform, in the same manner.
func Run(transform Transform, event *Event, host Host) (outputs []Changes, failure *Failure) {
	defer recovered(host, &failure)
	given, err := transform(event, host)
	if err != nil {
		return nil, failed(err)
	}
	for _, output := range given {
		if output == nil {
			return nil, Never("bad-output", "transform returned nil among its outputs")
		}
		if output.changes.Err != nil {
			return nil, failed(output.changes.Err)
		}
		outputs = append(outputs, output.changes)
	}
	return outputs, nil
}

func failed(err error) *Failure {
	if err == nil {
		return nil
	}
	var failure *Failure
	if errors.As(err, &failure) {
		return failure
	}
	return Never("error", err.Error())
}

func recovered(host Host, failure **Failure) {
	if value := recover(); value != nil {
		host.Log(Error, fmt.Sprintf("panic: %v\n%s", value, debug.Stack()))
		*failure = Never("uncaught-exception", fmt.Sprintf("panic: %v", value))
	}
}
