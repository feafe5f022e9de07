"""A student from its images to its report: trained, attacked beside its teacher, described."""

from guard.run.stage import Stage
from train import evaluation, student


def run(settings, attack_settings, make_inputs, *, dataset, root, where, seed, workers, teacher_path=None):
    """Trains a student by `settings` (settings.Train) and attacks it by `attack_settings`
    (settings.Evaluate); what is finished is left as it is. Returns the student's evaluation.

    make_inputs(): the Inputs of train/inputs.py. dataset, root: of the validation images. where: output, log,
    device_name and force, as of a Stage. teacher_path: of its teacher, None with hard labels.
    """
    stage = Stage("train", where["output"], log=where["log"], force=where["force"])
    with stage.entered(where["device_name"]) as device:
        inputs = make_inputs()
        judgement = evaluation.Judgement(
            attack_settings,
            dataset=dataset,
            root=root,
            seed=seed,
            workers=workers,
            device=device,
            force=where["force"],
        )
        evaluation.check(judgement, teacher_path)
        path = student.train(settings, inputs, stage, seed=seed, workers=workers)
        return evaluation.judge_experiment(
            stage,
            judgement,
            teacher=inputs.teacher,
            teacher_path=teacher_path,
            student_path=path,
            distilled=inputs.distilled,
        )
