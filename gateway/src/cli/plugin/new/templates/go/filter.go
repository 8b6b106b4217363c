// Lets new issues through, and nothing else.
package main

import (
	"tidegate/plugin"
	"tidegate/plugin/filter"
)

func init() { filter.Export(isNewIssue) }

func main() {}

func isNewIssue(event *plugin.Event, host plugin.Host) (bool, error) {
	var body struct {
		Action string
		Issue  struct{ Title string }
	}
	if err := event.Request.JSON(&body); err != nil {
		return false, err
	}
	return body.Action == "opened" && body.Issue.Title != "", nil
}
