package sqlstore

// FleetStatements returns, by name, the statements that search a fleet or update its indexes. Each
// engine's tests read the query plans of these statements, each of which must find its rows by an
// index.
func FleetStatements() map[string]*Statement {
	all := map[string]*Statement{
		"found": selectFound, "by id": selectByID, "among meta": amongMeta, "by nick": selectByNick, "count meta": countMetaTerm, "word": countWord, "page rows": selectPageRows,
		"count": selectCount, "values": selectValues, "states": selectStateCounts, "undecided": countUndecided, "quietest": selectQuietest,
		"arrivals": selectArrivals, "due": selectDue, "set due": setDue, "set quiet": setQuiet, "tokens by nick": selectTokensByNick,
		"insert word": insertWord, "delete word": deleteWord, "insert term": insertMetaTerm, "delete term": deleteMetaTerm,
		"indexed": selectIndexed, "seen": updateSeen,
		"owners": selectOwners, "hub's counts": selectHubCount, "hub's makers": selectHubMakers, "signed in": updateSignedIn, "operator": updateOperator,
		"pending": selectPending, "posted": selectPosted, "waiting room": selectWaitingPage,
		"events of an owner": selectEventsOfOwner, "events of a device": selectEventsOfBoth, "examined": selectExaminedOfOwner, "examined of a device": selectExaminedOfDevice,
		"messages of replicas": selectMessages, "last message": selectLastMessage, "temporary value": selectTemporary, "lease": selectLease,
		"bad cohorts": selectBadCohorts, "most bad cohorts": selectMostBad, "rare cohorts": selectRareCohorts, "cohorts": selectCohorts, "cohorts of a model": selectOfModel,
		"sum of cohorts": sumCohorts, "cohort": selectCohort, "members": selectMembers, "members of a model": selectMembersOfModel,
		"members of a version": selectMembersOfVersion, "members of a token": selectMembersOfToken, "count of a version": sumVersions, "versions": selectVersions,
		"stale boots": selectStale, "judged boot": selectJudged, "parts of a boot": selectParts,
		"logs": selectLogsOfOwner, "logs of a device": selectLogsOfDevice, "newest logs": selectLogsOfOwnerBack, "newest logs of a device": selectLogsOfDeviceBack,
		"log rule": selectLogRule, "log rules": selectLogRules,
		"EK list": selectEKPage, "count of an EK list": countEKs,
	}
	add := func(name string, w walk) {
		all[name+", up"], all[name+", down"] = w.up, w.down
		if w.short != nil {
			all[name+", short, up"], all[name+", short, down"] = w.short.up, w.short.down
		}
	}
	for key, w := range walkAll {
		add("all by "+string(key), w)
	}
	for state, st := range amongState {
		all["among "+state] = st
	}
	for field, st := range amongField {
		all["among values of "+string(field)] = st
	}
	for state, w := range walkState {
		add("state "+state, w)
	}
	for field, w := range walkField {
		add("field "+string(field), w)
	}
	add("meta", walkMeta)
	for field, st := range fieldIn {
		all["values of "+string(field)] = st
	}
	return all
}

// RequestStatements returns, by name, the statements that read what the hub needs for nearly every
// request of a device. Each engine's tests read their query plans.
func RequestStatements() map[string]*Statement {
	return map[string]*Statement{
		"device by id": selectBareDevice, "device by certificate": selectDeviceByIDevID,
		"open steps": selectOpenSteps, "steps": selectSteps,
	}
}

// RemovalStatements returns, by name, the statements that remove rows, or that count rows to
// enforce a limit. Each engine's tests read the query plans of these statements, because their cost
// must not grow with the fleet.
func RemovalStatements() map[string]*Statement {
	return map[string]*Statement{
		"expire enrolments": selectOverdue, "push out enrolments": pushOutEnrolments,
		"forget expired": forgetExpired, "count expired": countExpired, "forget unproven": forgetUnproven, "forget events": forgetEvents,
		"superseded": selectSuperseded, "strip enrolment": stripEnrolment, "set previous": setPrevious, "AIKs of an enrolment": deleteAIKsOf,
		"enrolment": deleteEnrolment, "revoke pending": revokePending, "revoke pending of an EK": revokePendingOf,
		"expire issued": expireIssued, "expire waiting": expireWaiting, "expire EK certificates": expireEKCertificates,
		"forget messages": forgetMessages, "expire temporary values": expireTemporary, "fence": selectFence,
		"expire logs": expiredLogs, "expire logs of an owner": expiredLogsOfOwner, "oldest logs": oldestLogs, "log usage": logUsageOfOwner,
		"count waiting": countWaiting, "unclaimed": listUnclaimed,
	}
}
