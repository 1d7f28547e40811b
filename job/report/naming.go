package report

import (
	"cmp"
	"slices"

	"usage-sync/store"
)

// Naming is how a statement names users.
type Naming string

const (
	ByName  Naming = "name"
	ByEmail Naming = "email"
	ByID    Naming = "id"
	// Unnamed leaves users out.
	Unnamed Naming = "none"
)

// nameUsers notes how people know the users of a statement. One that was closed keeps the names of its time.
func (s *Statement) nameUsers(names map[string]store.UserName, naming Naming) {
	s.Naming = cmp.Or(naming, ByName)
	name := func(users []Part) []Part {
		users = slices.Clone(users)
		for i := range users {
			if users[i].User == (store.UserName{}) {
				users[i].User = names[users[i].Name]
			}
		}
		return users
	}
	s.Users = name(s.Users)
	for i := range s.Corrections {
		s.Corrections[i].Users = name(s.Corrections[i].Users)
	}
}

// users are the rows of users as they are shown: none where nobody is to be named.
func (s Statement) users(all []Part) []Part {
	if s.Naming == Unnamed {
		return nil
	}
	return all
}

// known is how people know a user: empty where it is by the id alone.
func (s Statement) known(p Part) string {
	switch s.Naming {
	case ByName:
		return cmp.Or(p.User.Name, p.User.Email)
	case ByEmail:
		return p.User.Email
	}
	return ""
}

// shown is what people read as the name of a day, model or user.
func (s Statement) shown(p Part) string {
	if p.Name == store.NoUser {
		return "(no user named)"
	}
	return cmp.Or(s.known(p), p.Name)
}

// detail is what stands below the name: for the owner what OpenRouter calls the user, for a client the id of
// one of several of the same name.
func (s Statement) detail(p Part) string {
	name := s.shown(p)
	if name != p.Name && slices.ContainsFunc(s.Users, func(o Part) bool {
		return o.Name != p.Name &&
			s.shown(o) == name
	}) {
		return p.Name
	}
	if p.Detail == p.Name || p.Detail == name {
		return ""
	}
	return p.Detail
}
