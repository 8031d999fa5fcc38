package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// apiCall is a command that calls a running registry.
type apiCall struct {
	use, short, long string
	args             cobra.PositionalArgs
	// flags adds the command's own flags.
	flags func(*pflag.FlagSet)
	run   func(ctx context.Context, s *session, args []string) error
}

// session is a registry that a command calls, and where its output goes.
type session struct {
	*client.Client
	out, messages io.Writer
	json          bool
}

// apiGroup is a command with subcommands that call a running registry.
func apiGroup(use, short string, calls ...apiCall) *cobra.Command {
	group := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	for _, call := range calls {
		var to remote
		var asJSON bool
		cmd := &cobra.Command{
			Use: call.use, Short: call.short, Long: strings.TrimSpace(call.short + ".\n\n" + call.long), Args: call.args,
			RunE: func(cmd *cobra.Command, args []string) error {
				api, err := to.client()
				if err != nil {
					return err
				}
				return call.run(cmd.Context(), &session{Client: api, out: cmd.OutOrStdout(), messages: cmd.ErrOrStderr(), json: asJSON}, args)
			},
		}
		to.addFlags(cmd.Flags())
		cmd.Flags().BoolVar(&asJSON, "json", false, "print what the registry answers, as JSON")
		if call.flags != nil {
			call.flags(cmd.Flags())
		}
		group.AddCommand(cmd)
	}
	// The settings of a registry that is to be run mean nothing here.
	template := group.UsageTemplate()
	if begin := strings.Index(template, "{{if .HasAvailableInheritedFlags}}"); begin >= 0 {
		if end := strings.Index(template[begin:], "{{end}}"); end >= 0 {
			group.SetUsageTemplate(template[:begin] + template[begin+end+len("{{end}}"):])
		}
	}
	return group
}

// print prints an answer as JSON, or as a table.
func (s *session) print(answer any, header string, rows [][]string) error {
	if s.json {
		encoder := json.NewEncoder(s.out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(answer)
	}
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(table, header); err != nil {
		return err
	}
	for _, row := range rows {
		if _, err := fmt.Fprintln(table, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return table.Flush()
}

// printSecret prints a secret that was just made, alone on its line.
func (s *session) printSecret(answer any, secret domain.NewSecret, what string) error {
	if s.json {
		return s.print(answer, "", nil)
	}
	fmt.Fprintf(s.messages, "%s; it is not shown again:\n", what)
	_, err := fmt.Fprintln(s.out, string(secret))
	return err
}

func (s *session) done(format string, args ...any) error {
	_, err := fmt.Fprintf(s.messages, format+"\n", args...)
	return err
}

// orNever is a time that may not have been.
func orNever(at *string) string {
	if at == nil {
		return "never"
	}
	return *at
}

// secretOf reads a secret from a file, without the line break at its end.
func secretOf(path string) (domain.GivenSecret, error) {
	content, err := os.ReadFile(path)
	return domain.GivenSecret(strings.TrimRight(string(content), "\r\n")), err
}

// userPath is the path of a user, or of all of them.
func userPath(name ...string) []string {
	return append([]string{"api", "v1", "superuser", "users"}, name...)
}

// tokenPath is the path of a token of the caller, or of all of them.
func tokenPath(id ...string) []string {
	return append([]string{"api", "v1", "user", "apptoken"}, id...)
}

func newUserCommand() *cobra.Command {
	var email, passwordFile string
	set := func(ctx context.Context, s *session, name string, change openapi.UserChange, done string) error {
		var user openapi.User
		if err := s.Send(ctx, http.MethodPut, userPath(name), change, &user); err != nil {
			return err
		}
		return s.done("user %s is %s", name, done)
	}
	enable := func(yes bool, done string) func(context.Context, *session, []string) error {
		return func(ctx context.Context, s *session, args []string) error {
			return set(ctx, s, args[0], openapi.UserChange{Enabled: &yes}, done)
		}
	}
	group := apiGroup("user", "Manage the users of a running registry",
		apiCall{use: "list", short: "List the users", args: cobra.NoArgs, run: listUsers},
		apiCall{
			use: "create NAME", short: "Make a user", args: cobra.ExactArgs(1),
			long: "Without --new-password-file the registry makes a password, which is printed.",
			flags: func(flags *pflag.FlagSet) {
				flags.StringVar(&email, "email", "", "the user's address")
				flags.StringVar(&passwordFile, "new-password-file", "", "file with the user's password")
			},
			run: func(ctx context.Context, s *session, args []string) error {
				return createUser(ctx, s, openapi.NewUser{Username: args[0], Email: email}, passwordFile)
			},
		},
		apiCall{
			use: "delete NAME", short: "Remove a user with tokens, memberships and permissions", args: cobra.ExactArgs(1),
			run: func(ctx context.Context, s *session, args []string) error {
				if err := s.Send(ctx, http.MethodDelete, userPath(args[0]), nil, nil); err != nil {
					return err
				}
				return s.done("user %s is deleted", args[0])
			},
		},
		apiCall{use: "disable NAME", short: "Let a user in no more, until it is enabled", args: cobra.ExactArgs(1), run: enable(false, "disabled")},
		apiCall{use: "enable NAME", short: "Let a user in again", args: cobra.ExactArgs(1), run: enable(true, "enabled")},
		apiCall{
			use: "password NAME", short: "Give a user another password", args: cobra.ExactArgs(1),
			flags: func(flags *pflag.FlagSet) {
				flags.StringVar(&passwordFile, "new-password-file", "", "file with the new password")
			},
			run: func(ctx context.Context, s *session, args []string) error {
				if passwordFile == "" {
					return errors.New("--new-password-file is required")
				}
				secret, err := secretOf(passwordFile)
				if err != nil {
					return fmt.Errorf("--new-password-file: %w", err)
				}
				return set(ctx, s, args[0], openapi.UserChange{Password: &secret}, "given the new password")
			},
		},
	)
	group.AddCommand(apiGroup("token", "Manage the tokens of the user that calls, with its password",
		apiCall{use: "list", short: "List the user's tokens", args: cobra.NoArgs, run: listTokens},
		apiCall{
			use: "create TITLE", short: "Make a token, which is printed", args: cobra.ExactArgs(1),
			run: func(ctx context.Context, s *session, args []string) error {
				var answer openapi.AppTokenAnswer
				if err := s.Send(ctx, http.MethodPost, tokenPath(), openapi.NewAppToken{Title: args[0]}, &answer); err != nil {
					return err
				}
				return s.printSecret(answer, answer.Token.TokenCode, "the token "+answer.Token.UUID)
			},
		},
		apiCall{
			use: "revoke ID", short: "Revoke a token", args: cobra.ExactArgs(1),
			run: func(ctx context.Context, s *session, args []string) error {
				if err := s.Send(ctx, http.MethodDelete, tokenPath(args[0]), nil, nil); err != nil {
					return err
				}
				return s.done("token %s is revoked", args[0])
			},
		},
	))
	return group
}

func listUsers(ctx context.Context, s *session, _ []string) error {
	all := openapi.UserList{Users: []openapi.User{}}
	for query := (url.Values{}); ; {
		var page openapi.UserList
		if err := s.Get(ctx, userPath(), query, &page); err != nil {
			return err
		}
		all.Users = append(all.Users, page.Users...)
		if page.NextPage == "" {
			break
		}
		query.Set("next_page", page.NextPage)
	}
	var rows [][]string
	for _, user := range all.Users {
		enabled := "enabled"
		if !user.Enabled {
			enabled = "disabled"
		}
		rows = append(rows, []string{user.Username, user.Email, enabled, orNever(user.LastAccessed)})
	}
	return s.print(all, "NAME\tEMAIL\tSTATE\tTOKEN LAST USED", rows)
}

func createUser(ctx context.Context, s *session, user openapi.NewUser, passwordFile string) (err error) {
	if passwordFile != "" {
		if user.Password, err = secretOf(passwordFile); err != nil {
			return fmt.Errorf("--new-password-file: %w", err)
		}
		if user.Password == "" {
			return errors.New("--new-password-file: the file is empty")
		}
	}
	var created openapi.UserCreated
	if err := s.Send(ctx, http.MethodPost, userPath(), user, &created); err != nil {
		return err
	}
	if passwordFile != "" {
		return s.done("user %s is made", created.Username)
	}
	return s.printSecret(created, created.Password, "the password of "+created.Username)
}

func listTokens(ctx context.Context, s *session, _ []string) error {
	var list openapi.AppTokenList
	if err := s.Get(ctx, tokenPath(), nil, &list); err != nil {
		return err
	}
	var rows [][]string
	for _, token := range list.Tokens {
		rows = append(rows, []string{token.UUID, token.Title, token.Created, orNever(token.LastAccessed)})
	}
	return s.print(list, "ID\tTITLE\tMADE\tLAST USED", rows)
}

// orgPath is the path of something in an organization.
func orgPath(name string, rest ...string) []string {
	return append([]string{"api", "v1", "organization", name}, rest...)
}

func newOrgCommand() *cobra.Command {
	group := apiGroup("org", "Manage the organizations of a running registry",
		apiCall{
			use: "list", short: "List all organizations", args: cobra.NoArgs,
			run: func(ctx context.Context, s *session, _ []string) error {
				var list openapi.OrganizationList
				if err := s.Get(ctx, []string{"api", "v1", "superuser", "organizations"}, nil, &list); err != nil {
					return err
				}
				var rows [][]string
				for _, organization := range list.Organizations {
					owner := ""
					if organization.Owner != nil {
						owner = organization.Owner.Namespace
					}
					rows = append(rows, []string{organization.Name, owner})
				}
				return s.print(list, "NAME\tOWNING NAMESPACE", rows)
			},
		},
		apiCall{
			use: "create NAME", short: "Make an organization", args: cobra.ExactArgs(1),
			run: func(ctx context.Context, s *session, args []string) error {
				if err := s.Send(ctx, http.MethodPost, []string{"api", "v1", "organization"}, openapi.NewOrganization{Name: args[0]}, nil); err != nil {
					return err
				}
				return s.done("organization %s is made", args[0])
			},
		},
		apiCall{
			use: "delete NAME", short: "Remove an organization with all that is in it", args: cobra.ExactArgs(1),
			long: "Locked tags, and what Kubernetes objects manage, forbid it.",
			run: func(ctx context.Context, s *session, args []string) error {
				if err := s.Send(ctx, http.MethodDelete, orgPath(args[0]), nil, nil); err != nil {
					return err
				}
				return s.done("organization %s is deleted", args[0])
			},
		},
	)
	group.AddCommand(apiGroup("member", "Manage who belongs to an organization",
		apiCall{
			use: "list ORGANIZATION", short: "List the members", args: cobra.ExactArgs(1),
			run: func(ctx context.Context, s *session, args []string) error {
				var list openapi.MemberList
				if err := s.Get(ctx, orgPath(args[0], "members"), nil, &list); err != nil {
					return err
				}
				var rows [][]string
				for _, member := range list.Members {
					rows = append(rows, []string{member.Name, string(member.Role)})
				}
				return s.print(list, "NAME\tROLE", rows)
			},
		},
		apiCall{
			use: "set ORGANIZATION NAME ROLE", short: "Make a user or robot a member, or give it another role", args: cobra.ExactArgs(3),
			long: "The roles are admin, creator and member.",
			run: func(ctx context.Context, s *session, args []string) error {
				body := openapi.MemberRole{Role: domain.OrganizationRole(args[2])}
				if err := s.Send(ctx, http.MethodPut, orgPath(args[0], "members", args[1]), body, nil); err != nil {
					return err
				}
				return s.done("%s is %s of %s", args[1], args[2], args[0])
			},
		},
		apiCall{
			use: "remove ORGANIZATION NAME", short: "Remove a member with its permissions in the organization", args: cobra.ExactArgs(2),
			run: func(ctx context.Context, s *session, args []string) error {
				if err := s.Send(ctx, http.MethodDelete, orgPath(args[0], "members", args[1]), nil, nil); err != nil {
					return err
				}
				return s.done("%s is no member of %s any more", args[1], args[0])
			},
		},
	))
	return group
}

// robotPath is the path of a robot by its full name, organization+name, and what is behind it.
func robotPath(name string, rest ...string) ([]string, error) {
	organization, short, ok := strings.Cut(name, domain.RobotSeparator)
	if _, err := domain.RobotName(organization, short); !ok || err != nil {
		return nil, fmt.Errorf("%q is not the name of a robot: organization+name", name)
	}
	return append(orgPath(organization, "robots", short), rest...), nil
}

func newRobotCommand() *cobra.Command {
	var description string
	token := func(ctx context.Context, s *session, method, name string, body any, rest ...string) error {
		path, err := robotPath(name, rest...)
		if err != nil {
			return err
		}
		var robot openapi.Robot
		if err := s.Send(ctx, method, path, body, &robot); err != nil {
			return err
		}
		return s.printSecret(robot, robot.Token, "the token of "+robot.Name)
	}
	return apiGroup("robot", "Manage the robots of organizations of a running registry",
		apiCall{
			use: "list ORGANIZATION", short: "List an organization's robots", args: cobra.ExactArgs(1),
			run: func(ctx context.Context, s *session, args []string) error {
				var list openapi.RobotList
				if err := s.Get(ctx, orgPath(args[0], "robots"), nil, &list); err != nil {
					return err
				}
				var rows [][]string
				for _, robot := range list.Robots {
					rows = append(rows, []string{robot.Name, robot.Description, orNever(robot.LastAccessed)})
				}
				return s.print(list, "NAME\tDESCRIPTION\tLAST USED", rows)
			},
		},
		apiCall{
			use: "create ORGANIZATION+NAME", short: "Make a robot, whose token is printed", args: cobra.ExactArgs(1),
			flags: func(flags *pflag.FlagSet) { flags.StringVar(&description, "description", "", "what the robot is for") },
			run: func(ctx context.Context, s *session, args []string) error {
				return token(ctx, s, http.MethodPut, args[0], openapi.NewRobot{Description: description})
			},
		},
		apiCall{
			use: "rotate ORGANIZATION+NAME", short: "Replace a robot's token, which is printed; the old one is void", args: cobra.ExactArgs(1),
			run: func(ctx context.Context, s *session, args []string) error {
				return token(ctx, s, http.MethodPost, args[0], nil, "regenerate")
			},
		},
		apiCall{
			use: "delete ORGANIZATION+NAME", short: "Remove a robot with its token and permissions", args: cobra.ExactArgs(1),
			run: func(ctx context.Context, s *session, args []string) error {
				path, err := robotPath(args[0])
				if err != nil {
					return err
				}
				if err := s.Send(ctx, http.MethodDelete, path, nil, nil); err != nil {
					return err
				}
				return s.done("robot %s is deleted", args[0])
			},
		},
	)
}
