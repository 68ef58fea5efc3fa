package ui

import "time"

// SettingsPage is the data of the page "settings". Only the fields of the chosen tab are set.
type SettingsPage struct {
	Tabs      []Tab
	Account   *SettingsAccount
	Sessions  *SettingsSessions
	APITokens *SettingsAPITokens
}

// SettingsAccount is the tab "Account". The page shows each problem next to the field that it is
// about.
type SettingsAccount struct {
	ID, PRN, Nick, Email string
	Created              time.Time
	Devices              int
	APITokens            int
	Operator             bool // the account has the role operator

	CurrentProblem, PasswordProblem, AgainProblem string
	EndAPITokens                                  bool

	Logs SettingsLogs

	// Problems of the form that disables or deletes the account.
	DisableProblem, DeletePasswordProblem, ConfirmProblem string
	Problem                                               string
	WithDevices                                           bool
}

// SettingsLogs is the form in which an owner sets how much of the devices' logs the hub keeps.
type SettingsLogs struct {
	HubAge, HubSize         string // the hub's bounds
	Age, Size               string // as typed; empty: the hub's bound
	AgeProblem, SizeProblem string
}

// SettingsSessions is the tab "Sessions".
type SettingsSessions struct {
	Rows []SessionRow
}

// SessionRow is a session of the account.
type SessionRow struct {
	ID, Addr, Means  string
	Current          bool
	Created, Expires time.Time
}

// SettingsAPITokens is the tab "API tokens".
type SettingsAPITokens struct {
	Rows    []APITokenRow
	Max     int
	Made    *MadeAPIToken // the API token that was just made; nil: none
	Name    string        // as typed
	All     bool          // the token may do everything
	Rights  []Right
	Life    []Choice
	Problem string // what is wrong with the form as a whole
	// What is wrong with the name and with the scopes.
	NameProblem, ScopeProblem string
}

// MadeAPIToken is a new API token, with its secret. The hub shows the secret only once.
type MadeAPIToken struct {
	Name, Secret string
	Expires      time.Time
	Try          string // a command that uses the API token
}

// APITokenRow is an API token.
type APITokenRow struct {
	ID, Name, Addr         string
	Rights                 []string // what the API token may do, in words
	Created, Expires, Used time.Time
	Badge                  Badge
}

// Right is a resource, and the levels of access to it that an API token can be given.
type Right struct {
	Name, Title, Words string
	Choices            []Choice
}

// Choice is an option of a list.
type Choice struct {
	Value, Name string
	Chosen      bool
}
