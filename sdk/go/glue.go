package plugin

import (
	"errors"
	"fmt"
	"math"
	"runtime/debug"
)

// Filter decides whether an event goes on: true keeps it; false drops it, which is recorded as filtered.
type Filter func(event *Event, host Host) (bool, error)

// Transform makes the requests that go out, in order; none drops the event, which is recorded as filtered.
type Transform func(event *Event, host Host) ([]*Output, error)

// Verify checks a source's requests by its sender's own scheme, before they are accepted. An error is answered 503, and nothing is kept.
// Compare signatures with [Host].HMACVerify, which takes the same time wherever they differ.
type Verify func(arrival *Arrival, host Host) (Verification, error)

// Respond answers requests that are no events, like the handshake with which a sender asks whose an endpoint is; nil for an event like any
// other.
type Respond func(arrival *Arrival, host Host) (*Response, error)

// Sign signs attempts by a receiver's own scheme: its headers replace lines of the same name.
type Sign func(attempt *Attempt, host Host) ([]Header, error)

// Judge says what a destination's answer means. An error leaves it to the gateway, like the zero [Judgement].
type Judge func(attempt *Attempt, response *Response, host Host) (Judgement, error)

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

// CheckArrival asks a verifier, in the same manner.
func CheckArrival(verify Verify, arrival *Arrival, host Host) (verification Verification, failure *Failure) {
	defer recovered(host, &failure)
	verification, err := verify(arrival, host)
	return verification, failed(err)
}

// AnswerArrival asks a responder, in the same manner.
func AnswerArrival(respond Respond, arrival *Arrival, host Host) (response *Response, failure *Failure) {
	defer recovered(host, &failure)
	response, err := respond(arrival, host)
	if err != nil || response == nil {
		return nil, failed(err)
	}
	if response.Status < 0 || response.Status > math.MaxUint16 {
		return nil, Never("bad-output", fmt.Sprintf("respond returned the status %d", response.Status))
	}
	return response, failed(response.err)
}

// SignAttempt asks a signer, in the same manner.
func SignAttempt(sign Sign, attempt *Attempt, host Host) (headers []Header, failure *Failure) {
	defer recovered(host, &failure)
	headers, err := sign(attempt, host)
	return headers, failed(err)
}

// JudgeResponse asks a judge, in the same manner.
func JudgeResponse(judge Judge, attempt *Attempt, response *Response, host Host) (judgement Judgement, failure *Failure) {
	defer recovered(host, &failure)
	judgement, err := judge(attempt, response, host)
	if err == nil && (judgement.Verdict > VerdictDeadLetter || judgement.After < 0) {
		return Judgement{}, Never("bad-output", fmt.Sprintf("judge returned the verdict %d, after %v", judgement.Verdict, judgement.After))
	}
	return judgement, failed(err)
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
