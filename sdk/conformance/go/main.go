// Does what a conformance case's configuration says: see ../README.md.
package main

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"

	"tidegate/plugin"
	"tidegate/plugin/filter"
	"tidegate/plugin/judge"
	"tidegate/plugin/respond"
	"tidegate/plugin/sign"
	"tidegate/plugin/transform"
	"tidegate/plugin/verify"
)

func init() {
	filter.Export(keep)
	transform.Export(run)
	verify.Export(checkArrival)
	respond.Export(answerArrival)
	sign.Export(signAttempt)
	judge.Export(judgeResponse)
}

func main() {}

type config struct {
	Do      string
	Name    string
	Outputs []sent
	Times   *int
	Code    string
	Message string
	Retry   string
	Body    data
	Log     [][2]string
	Secrets []string
	HMAC    [][3]data
	Verify  [][4]data `json:"hmac_verify"`
	Random  []int
	Numbers int
	Ops     []op
	Catch   bool
	Reason  string
	Status  int
	Headers [][2]data
	Verdict json.RawMessage
}

type sent struct {
	Method      *string
	Path        *string
	Query       *string
	RemoveQuery bool `json:"remove_query"`
	Headers     [][]data
	Body        *data
}

// data is a text or {"hex": DIGITS}.
type data string

func (value *data) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		*value = data(text)
		return nil
	}
	var digits struct{ Hex string }
	if err := json.Unmarshal(raw, &digits); err != nil {
		return err
	}
	bytes, err := hex.DecodeString(digits.Hex)
	*value = data(bytes)
	return err
}

func keep(event *plugin.Event, host plugin.Host) (bool, error) {
	var config config
	if err := plugin.Config(host, &config); err != nil {
		return false, err
	}
	if config.Do == "kv" {
		results, err := operate(&config, event.Request.Body, host)
		return err == nil && results[len(results)-1] == true, err
	}
	write(&config, host)
	if config.Do == "keep" {
		return string(event.Request.Body) == string(config.Body), nil
	}
	return false, refuse(&config)
}

func run(event *plugin.Event, host plugin.Host) ([]*plugin.Output, error) {
	var config config
	if err := plugin.Config(host, &config); err != nil {
		return nil, err
	}
	request := &event.Request
	switch config.Do {
	case "describe":
		return answer(describe(event)), nil
	case "headers":
		return answer(headers(request, config.Name)), nil
	case "reverse":
		body := slices.Clone(request.Body)
		slices.Reverse(body)
		return []*plugin.Output{plugin.NewOutput().Body(body)}, nil
	case "read-json":
		var value any
		if err := request.JSON(&value); err != nil {
			return nil, err
		}
		return answer(value), nil
	case "outputs":
		return outputs(&config), nil
	case "host":
		return answer(ask(&config, host)), nil
	case "kv":
		results, err := operate(&config, request.Body, host)
		if err != nil {
			return nil, err
		}
		return answer(results), nil
	}
	return nil, refuse(&config)
}

func refuse(config *config) error {
	switch {
	case config.Do == "fail" && config.Retry == "later":
		return plugin.Later(config.Code, config.Message)
	case config.Do == "fail":
		return plugin.Never(config.Code, config.Message)
	case config.Do == "raise":
		panic(config.Message)
	}
	return plugin.Never("unknown-case", "nothing to do")
}

func answer(value any) []*plugin.Output {
	return []*plugin.Output{plugin.NewOutput().Method("POST").Path("/in").RemoveQuery().ClearHeaders().JSON(value)}
}

func describe(event *plugin.Event) any {
	request := event.Request
	lines := make([][2]string, 0)
	for _, header := range request.Headers {
		lines = append(lines, [2]string{header.Name, hex.EncodeToString(header.Value)})
	}
	return map[string]any{
		"id": event.ID, "accepted_at": event.AcceptedAt.UnixMilli(), "method": request.Method, "path": request.Path,
		"query": request.Query, "headers": lines, "body": hex.EncodeToString(request.Body), "attributes": len(event.Attributes),
	}
}

func headers(request *plugin.Request, name string) any {
	all := make([]string, 0)
	for _, value := range request.HeaderValues(name) {
		all = append(all, hex.EncodeToString(value))
	}
	var first *string
	if text, found := request.Header(name); found {
		first = &text
	}
	return map[string]any{"first": first, "all": all}
}

func outputs(config *config) []*plugin.Output {
	times := 1
	if config.Times != nil {
		times = *config.Times
	}
	var made []*plugin.Output
	for range times {
		for _, sent := range config.Outputs {
			made = append(made, output(&sent))
		}
	}
	return made
}

func output(sent *sent) *plugin.Output {
	output := plugin.NewOutput()
	if sent.Method != nil {
		output.Method(*sent.Method)
	}
	if sent.Path != nil {
		output.Path(*sent.Path)
	}
	if sent.Query != nil {
		output.Query(*sent.Query)
	}
	if sent.RemoveQuery {
		output.RemoveQuery()
	}
	for _, change := range sent.Headers {
		switch change[0] {
		case "clear":
			output.ClearHeaders()
		case "remove":
			output.RemoveHeader(string(change[1]))
		case "set":
			output.Header(string(change[1]), string(change[2]))
		case "append":
			output.AppendHeader(string(change[1]), string(change[2]))
		}
	}
	if sent.Body != nil {
		output.Body([]byte(*sent.Body))
	}
	return output
}

func ask(config *config, host plugin.Host) any {
	write(config, host)
	secrets := make(map[string]*string)
	for _, name := range config.Secrets {
		secrets[name] = digits(host.Secret(name))
	}
	tags := make([]*string, 0)
	for _, asked := range config.HMAC {
		tags = append(tags, digits(host.HMAC(algorithms[asked[0]], string(asked[1]), []byte(asked[2]))))
	}
	random := make([]string, 0)
	for _, length := range config.Random {
		random = append(random, hex.EncodeToString(host.RandomBytes(length)))
	}
	numbers := make([]string, 0)
	for range config.Numbers {
		numbers = append(numbers, strconv.FormatUint(host.RandomNumber(), 10))
	}
	answer := map[string]any{
		"now": host.Now().UnixMilli(), "secrets": secrets, "hmac": tags, "random": random, "numbers": numbers,
	}
	if config.Verify != nil {
		verified := make([]*bool, 0)
		for _, asked := range config.Verify {
			right, found := host.HMACVerify(algorithms[asked[0]], string(asked[1]), []byte(asked[2]), []byte(asked[3]))
			if found {
				verified = append(verified, &right)
			} else {
				verified = append(verified, nil)
			}
		}
		answer["hmac_verify"] = verified
	}
	return answer
}

var algorithms = map[data]plugin.Algorithm{"sha1": plugin.SHA1, "sha256": plugin.SHA256, "sha512": plugin.SHA512}

func digits(value []byte, found bool) *string {
	if !found {
		return nil
	}
	text := hex.EncodeToString(value)
	return &text
}

func write(config *config, host plugin.Host) {
	for _, line := range config.Log {
		level := map[string]plugin.Level{"debug": plugin.Debug, "info": plugin.Info, "warn": plugin.Warn, "error": plugin.Error}[line[0]]
		host.Log(level, line[1])
	}
}
