package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tidegate/plugin"
)

type op struct {
	Op  string
	Key string
	// Value is the event's body if it is not given.
	Value *data
	TTL   int
	By    int64
}

func operate(config *config, body []byte, host plugin.Host) ([]any, error) {
	write(config, host)
	times := 1
	if config.Times != nil {
		times = *config.Times
	}
	results := make([]any, 0)
	for range times {
		for _, op := range config.Ops {
			result, err := one(&op, body, host.KV())
			var failure *plugin.Failure
			switch {
			case err == nil:
				results = append(results, result)
			case config.Catch && errors.As(err, &failure):
				results = append(results, map[string]string{"failure": failure.Code})
			default:
				return nil, err
			}
		}
	}
	return results, nil
}

func one(op *op, body []byte, kv plugin.KV) (any, error) {
	if op.Value != nil {
		body = []byte(*op.Value)
	}
	ttl := time.Duration(op.TTL) * time.Second
	switch op.Op {
	case "get":
		value, found, err := kv.Get(op.Key)
		return digits(value, found), err
	case "set":
		return "done", kv.Set(op.Key, body, ttl)
	case "add":
		return kv.Add(op.Key, body, ttl)
	case "delete":
		return kv.Delete(op.Key)
	case "increment":
		sum, err := kv.Increment(op.Key, op.By, ttl)
		return strconv.FormatInt(sum, 10), err
	}
	return nil, plugin.Never("unknown-case", "nothing to do")
}

func checkArrival(arrival *plugin.Arrival, host plugin.Host) (plugin.Verification, error) {
	var config config
	if err := plugin.Config(host, &config); err != nil {
		return plugin.Verification{}, err
	}
	switch config.Do {
	case "describe":
		return plugin.Reject(arrivalText(arrival, host)), nil
	case "accept":
		return plugin.Accept(), nil
	case "reject":
		return plugin.Reject(config.Reason), nil
	}
	return plugin.Verification{}, refuseWithoutTable(&config, host)
}

func answerArrival(arrival *plugin.Arrival, host plugin.Host) (*plugin.Response, error) {
	var config config
	if err := plugin.Config(host, &config); err != nil {
		return nil, err
	}
	switch config.Do {
	case "describe":
		return plugin.TextResponse(200, arrivalText(arrival, host)), nil
	case "none":
		return nil, nil
	case "answer":
		response := &plugin.Response{Status: config.Status, Body: []byte(config.Body)}
		for _, line := range config.Headers {
			response.WithHeader(string(line[0]), string(line[1]))
		}
		return response, nil
	}
	return nil, refuseWithoutTable(&config, host)
}

func signAttempt(attempt *plugin.Attempt, host plugin.Host) ([]plugin.Header, error) {
	var config config
	if err := plugin.Config(host, &config); err != nil {
		return nil, err
	}
	switch config.Do {
	case "describe":
		return []plugin.Header{{Name: "x-described", Value: []byte(attemptText(attempt, host))}}, nil
	case "sign":
		var headers []plugin.Header
		for _, line := range config.Headers {
			headers = append(headers, plugin.Header{Name: string(line[0]), Value: []byte(line[1])})
		}
		return headers, nil
	}
	return nil, refuseWithoutTable(&config, host)
}

func judgeResponse(attempt *plugin.Attempt, response *plugin.Response, host plugin.Host) (plugin.Judgement, error) {
	var config config
	if err := plugin.Config(host, &config); err != nil {
		return plugin.Judgement{}, err
	}
	switch config.Do {
	case "describe":
		said := fmt.Sprintf(
			"%d|%s|%x|%d", response.Status, headersText(response.Headers), response.Body, len(response.Attributes),
		)
		return plugin.DeadLetter(attemptText(attempt, host) + "|" + said), nil
	case "judge":
		return judgement(config.Verdict)
	}
	return plugin.Judgement{}, refuseWithoutTable(&config, host)
}

func judgement(verdict json.RawMessage) (plugin.Judgement, error) {
	switch string(verdict) {
	case `"default"`:
		return plugin.Judgement{}, nil
	case `"delivered"`:
		return plugin.Delivered(), nil
	case `"retry"`:
		return plugin.RetryAfter(0), nil
	}
	var more struct {
		RetryAfterMS *int64  `json:"retry_after_ms"`
		DeadLetter   *string `json:"dead_letter"`
	}
	if err := json.Unmarshal(verdict, &more); err != nil {
		return plugin.Judgement{}, err
	}
	if more.RetryAfterMS != nil {
		return plugin.RetryAfter(time.Duration(*more.RetryAfterMS) * time.Millisecond), nil
	}
	return plugin.DeadLetter(*more.DeadLetter), nil
}

// refuseWithoutTable is the table's refusal, for whoever has none.
func refuseWithoutTable(config *config, host plugin.Host) error {
	if config.Do == "kv" {
		if _, err := operate(config, nil, host); err != nil {
			return err
		}
	}
	return refuse(config)
}

func arrivalText(arrival *plugin.Arrival, host plugin.Host) string {
	received := arrival.ReceivedAt.UnixMilli()
	return fmt.Sprintf("%d|%d|%s|%d", host.Now().UnixMilli(), received, requestText(&arrival.Request), len(arrival.Attributes))
}

func attemptText(attempt *plugin.Attempt, host plugin.Host) string {
	return fmt.Sprintf(
		"%d|%s|%s|%d|%d|%s|%s|%d", host.Now().UnixMilli(), attempt.DeliveryID, attempt.EventID, attempt.Number,
		attempt.StartedAt.UnixMilli(), attempt.Origin, requestText(&attempt.Request), len(attempt.Attributes),
	)
}

func requestText(request *plugin.Request) string {
	query := "-"
	if request.Query != nil {
		query = *request.Query
	}
	return fmt.Sprintf("%s|%s|%s|%s|%x", request.Method, request.Path, query, headersText(request.Headers), request.Body)
}

func headersText(headers []plugin.Header) string {
	var lines []string
	for _, header := range headers {
		lines = append(lines, header.Name+"="+hex.EncodeToString(header.Value))
	}
	return strings.Join(lines, ",")
}
