import { useCallback, useState, type SyntheticEvent } from "react";
import { api, idempotencyKey, type Schemas } from "../api/client";
import { useAction } from "../api/useAction";
import { usePolled, type Sending } from "../api/usePolled";
import { Faults } from "../form/faults";
import { Field } from "../form/Field";
import "../form/form.css";
import { labelOf, textOf, valueOf } from "../form/values";
import { DataTable } from "../ui/DataTable";
import { Failure } from "../ui/Failure";
import { Moment } from "../ui/Moment";
import { Pager } from "../ui/Pager";
import { ProblemBox } from "../ui/ProblemBox";
import { useTitle } from "../ui/useTitle";

const EVERY_MILLISECONDS = 10000;
const LIMITS = ["requests_per_minute", "queued_jobs", "running_jobs", "device_hours_per_month", "stored_bytes"] as const;
type Project = Schemas["ProjectView"];

export default function ProjectsPage() {
  useTitle("Projects");
  const [cursor, setCursor] = useState<string>();
  const [changed, setChanged] = useState<Project | null>(null);
  const ask = useCallback(
    (sending: Sending) => {
      const query = { limit: 50, ...(cursor ? { cursor } : {}) };
      return api.GET("/v1/projects", { params: { query }, ...sending });
    },
    [cursor],
  );
  const { data, error, refresh } = usePolled(ask, () => EVERY_MILLISECONDS);
  const done = () => {
    setChanged(null);
    refresh();
  };
  return (
    <>
      <h1>Projects</h1>
      <Failure error={error} />
      {data && (
        <>
          <section className="card">
            <Projects projects={data.data} onChange={setChanged} />
            <Pager cursor={cursor} next={data.next_cursor} onMove={setCursor} />
          </section>
          <ProjectForm key={changed?.id ?? "new"} project={changed} onDone={done} />
        </>
      )}
    </>
  );
}

function Projects({ projects, onChange }: { projects: Project[]; onChange: (project: Project) => void }) {
  return (
    <DataTable
      title="Projects"
      columns={["Name", "Limits of its own", "Made", "Id", "Change"]}
      none="There is no project."
      rows={projects.map((project) => ({
        id: project.id,
        cells: [
          project.name,
          Object.entries(project.limits)
            .filter(([, limit]) => limit != null)
            .map(([name, limit]) => `${labelOf(name).toLowerCase()} ${textOf(limit)}`)
            .join(", ") || "those of the service",
          <Moment at={project.created_at} />,
          <code>{project.id}</code>,
          <button onClick={() => onChange(project)} aria-label={`Change ${project.name}`}>
            Change
          </button>,
        ],
      }))}
    />
  );
}

/** Makes a project, or changes one. */
function ProjectForm({ project, onDone }: { project: Project | null; onDone: () => void }) {
  const { busy, problem, run } = useAction();
  const [name, setName] = useState(project?.name ?? "");
  const [limits, setLimits] = useState<Record<string, string>>(() =>
    Object.fromEntries(LIMITS.map((limit) => [limit, textOf(project?.limits[limit])])),
  );
  const send = async () => {
    // Null gives a limit back to the service; a text that is no number is refused at its field.
    const values = LIMITS.map((limit) => [limit, valueOf(limits[limit] ?? "", "number") ?? null]);
    const body = { name, limits: Object.fromEntries(values) as Schemas["Limits"] };
    if (project) {
      await api.PATCH("/v1/projects/{project_id}", { body, params: { path: { project_id: project.id } } });
    } else {
      await api.POST("/v1/projects", { body, params: { header: { "Idempotency-Key": idempotencyKey() } } });
      setName("");
      setLimits({});
    }
    onDone();
  };
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    void run(send);
  };
  return (
    <Faults value={problem?.errors ?? []}>
      <form className="card" aria-labelledby="project-form" noValidate onSubmit={submit}>
        <h2 id="project-form">{project ? `Change ${project.name}` : "Make a project"}</h2>
        <div className="fields">
          <Field label="Name" pointer="/name">
            {(named) => <input {...named} value={name} required onChange={(event) => setName(event.target.value)} />}
          </Field>
          {LIMITS.map((limit) => (
            <Field key={limit} label={labelOf(limit)} pointer={`/limits/${limit}`}>
              {(named) => (
                <input
                  {...named}
                  inputMode="decimal"
                  placeholder="as the service says"
                  value={limits[limit] ?? ""}
                  onChange={(event) => setLimits({ ...limits, [limit]: event.target.value })}
                />
              )}
            </Field>
          ))}
        </div>
        {problem && <ProblemBox problem={problem} />}
        <div className="actions">
          <button className="primary" type="submit" disabled={busy}>
            {project ? "Change the project" : "Make the project"}
          </button>
          {project && (
            <button type="button" onClick={onDone}>
              Leave it as it is
            </button>
          )}
        </div>
      </form>
    </Faults>
  );
}
